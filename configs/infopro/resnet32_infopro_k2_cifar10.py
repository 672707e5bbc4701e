_base_ = './resnet32_infopro_k16_cifar10.py'
model = dict(backbone=dict(num_modules=2, auxiliary=dict(lambda1=(5.0, 5.0), lambda2=(1.0, 1.0))))
