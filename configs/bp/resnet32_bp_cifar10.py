_base_ = [
    '../_base_/resnet32_classification.py',
    '../_base_/cifar10_1024.py',
]
auto_scale_lr = dict(base_batch_size=1024)
randomness = dict(seed=0)
