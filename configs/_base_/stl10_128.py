# STL-10: data/stl10/stl10_binary, 5,000 labelled images of 96 x 96 px at full resolution.
dataset_type = 'man_mm.STL10'
data_preprocessor = dict(
    num_classes=10,
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=False,  # the files hold RGB
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=96, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=128,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/stl10/', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/stl10/', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
