_base_ = './resnet32_dgl_k16_cifar10.py'
model = dict(backbone=dict(num_modules=4))
