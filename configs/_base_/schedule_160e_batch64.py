# The paper's optimizer, length and schedule for detection (its section A.3), but for two numbers: a
# warm-up of 500 steps instead of 5, and upstream's learning rate for this batch instead of 1e-4.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=160, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', begin=0, end=160, T_max=160, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.04, momentum=0.9, nesterov=True, weight_decay=0.0001),
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
