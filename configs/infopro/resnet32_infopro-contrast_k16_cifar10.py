_base_ = './resnet32_infopro_k16_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(estimator='contrast')))
