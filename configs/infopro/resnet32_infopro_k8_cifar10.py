_base_ = './resnet32_infopro_k16_cifar10.py'
model = dict(backbone=dict(num_modules=8, auxiliary=dict(lambda1=(5.0, 0.0), lambda2=(0.0, 2.0))))
