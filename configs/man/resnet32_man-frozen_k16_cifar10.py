# The control of man-follow: the units of an SLM keep the random weights that they start from.
_base_ = 'resnet32_man_k16_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(trainable=False)))
