_base_ = './resnet32_bp_cifar10.py'
model = dict(backbone=dict(depth=110))
