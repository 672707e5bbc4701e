# 400 steps; one learning rate for all methods, not compared with others on this model.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=16, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', begin=0, end=16, by_epoch=True, eta_min_ratio=0.01, convert_to_iter_based=True),
]
