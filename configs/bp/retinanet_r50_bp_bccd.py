_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/bccd_detection.py',
]
model = dict(
    data_preprocessor=dict(mean=[103.939, 116.779, 123.68], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        frozen_stages=-1,  # every unit trains, as MAN needs at K = 17
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='data/resnet50_caffe.pth'),
    ),
    # platelets are about 20 px wide at 320 x 240: upstream's smallest anchor, 32 px, matches none of them
    bbox_head=dict(num_classes=3, anchor_generator=dict(octave_base_scale=2)),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=6, by_epoch=True, milestones=[4, 5], gamma=0.1),
]
train_cfg = dict(max_epochs=6, val_interval=2)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=1),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
randomness = dict(seed=0)
