# CIFAR-10: data/cifar10/cifar-10-batches-py. Re-packed files have other checksums: set check_md5=False wherever data is
# loaded, e.g. --cfg-options train_dataloader.dataset.check_md5=False val_dataloader.dataset.check_md5=False.
dataset_type = 'man_mm.CIFAR10'
data_preprocessor = dict(
    num_classes=10,
    mean=[125.3, 123.0, 113.9],
    std=[63.0, 62.1, 66.7],
    to_rgb=False,  # the files hold RGB
)
train_pipeline = [
    # reflected: with `padding`, mmpretrain's RandomCrop does not look at its padding_mode
    dict(type='RandomCrop', crop_size=40, pad_if_needed=True, padding_mode='reflect'),
    dict(type='RandomCrop', crop_size=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=1024,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/cifar10/', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=1024,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/cifar10/', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
