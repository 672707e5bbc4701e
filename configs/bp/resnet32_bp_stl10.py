_base_ = [
    '../_base_/resnet32_classification.py',
    '../_base_/stl10_128.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=11),
    dict(type='CosineAnnealingLR', T_max=400, by_epoch=True, begin=0, end=400),
]
auto_scale_lr = dict(base_batch_size=128)
randomness = dict(seed=0)
