_base_ = './resnet32_predsim_k16_cifar10.py'
model = dict(backbone=dict(num_modules=4))
