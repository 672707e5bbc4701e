# A narrow RetinaNet-R18, small enough to learn from scratch on two CPU cores in minutes.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/shapes_detection.py',
    '../_base_/shapes_schedule.py',
]
norm_cfg = dict(type='GN', num_groups=8)  # what lets neck and head learn fast from scratch
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_outs=3, add_extra_convs=False, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=3,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm_cfg,
        anchor_generator=dict(octave_base_scale=2.5, scales_per_octave=2, ratios=[1.0], strides=[8, 16, 32]),
        reg_decoded_bbox=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(type='man_mm.SafeCheckpointHook', max_keep_ckpts=1),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
randomness = dict(seed=0)
