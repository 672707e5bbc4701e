_base_ = './resnet32_auglocal_k16_cifar10.py'
model = dict(backbone=dict(backbone=dict(depth=110), num_modules=55, auxiliary=dict(depth=6)))
