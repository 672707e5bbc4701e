# The units of an SLM follow those that they mirror; its classifier alone trains.
_base_ = 'resnet32_man_k16_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(init='copy', follow='ema')))
