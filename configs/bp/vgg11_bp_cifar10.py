# VGG-11 with batch normalisation on images of 32 px, with the recipe of ResNet-32: the last pooling leaves one vector.
_base_ = './resnet32_bp_cifar10.py'
model = dict(
    backbone=dict(_delete_=True, type='VGG', depth=11, norm_cfg=dict(type='BN')),
    head=dict(in_channels=512),
)
