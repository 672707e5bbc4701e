_base_ = './resnet32_auglocal_k16_cifar10.py'
model = dict(backbone=dict(num_modules=8))
