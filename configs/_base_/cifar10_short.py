# A protocol for two CPU cores, laid over a CIFAR-10 config by benchmarks/cifar10.py: the first 10,000 training
# images, shrunk to 16 x 16 px, batch 64, 6 epochs. Learning rates are chosen on the last 5,000 training images.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        check_md5=False,
        indices=10000,
        pipeline=[
            dict(type='RandomCrop', crop_size=40, pad_if_needed=True, padding_mode='reflect'),
            dict(type='RandomCrop', crop_size=32),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='Resize', scale=16, interpolation='area'),
            dict(type='PackInputs'),
        ],
    ),
)
test_pipeline = [dict(type='Resize', scale=16, interpolation='area'), dict(type='PackInputs')]
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(split='train', test_mode=False, check_md5=False, indices=-5000, pipeline=test_pipeline),
)
test_dataloader = dict(batch_size=250, num_workers=0, dataset=dict(check_md5=False, pipeline=test_pipeline))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=6, by_epoch=True, begin=0, end=6, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=6))
