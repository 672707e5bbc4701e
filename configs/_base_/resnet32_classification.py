# ResNet-32 (466,906 parameters) and the recipe that the local-learning papers share: SGD with Nesterov momentum, weight
# decay on every parameter, cosine over 400 epochs, of which 10 warm up. The learning rate goes with the data's batch.
_base_ = 'mmpretrain::_base_/default_runtime.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='man_mm.CIFARResNet', depth=32),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=None,  # torch's default, as in the papers' code
    ),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.8, momentum=0.9, nesterov=True, weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.0125, by_epoch=True, begin=0, end=11),
    dict(type='CosineAnnealingLR', T_max=400, by_epoch=True, begin=0, end=400),
]
train_cfg = dict(by_epoch=True, max_epochs=400, val_interval=10)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    checkpoint=dict(type='man_mm.SafeCheckpointHook', interval=10, max_keep_ckpts=1),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
