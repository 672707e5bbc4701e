_base_ = 'mmdet::_base_/datasets/coco_detection.py'

# cutpaste: 600 + 150 synthetic composites (480 x 360) of real photo cut-outs on real photos, 5 classes, objects of 40
# to 200 px; COCO-format json beside `train/` and `val/`, whose objects and backgrounds are disjoint.
dataset_type = 'CocoDataset'
data_root = 'data/cutpaste/'
metainfo = dict(
    classes=('mammal', 'bird', 'flower', 'fruit_veg', 'vehicle'),
    palette=[(220, 20, 60), (60, 20, 220), (200, 60, 200), (20, 160, 60), (220, 140, 20)],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        metainfo=metainfo,
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = val_evaluator
