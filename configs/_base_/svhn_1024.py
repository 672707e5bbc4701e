# SVHN, cropped digits: data/svhn/{train,test}_32x32.mat; the `extra` images are not used.
dataset_type = 'man_mm.SVHN'
data_preprocessor = dict(
    num_classes=10,
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=False,  # the files hold RGB
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=1024,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/svhn/', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=1024,
    collate_fn=dict(type='default_collate'),
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type=dataset_type, data_root='data/svhn/', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
