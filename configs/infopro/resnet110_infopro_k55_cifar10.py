_base_ = './resnet32_infopro_k16_cifar10.py'
model = dict(
    backbone=dict(backbone=dict(depth=110), num_modules=55, auxiliary=dict(lambda1=(5.0, 0.5), lambda2=(0.0, 1.0)))
)
