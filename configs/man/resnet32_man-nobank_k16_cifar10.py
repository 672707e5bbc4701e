_base_ = 'resnet32_man_k16_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(bank_vectors=False)))
