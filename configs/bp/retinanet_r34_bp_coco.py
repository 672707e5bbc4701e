_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    'mmdet::retinanet/retinanet_tta.py',
    '../_base_/coco_detection_400.py',
]
model = dict(
    backbone=dict(
        depth=34,
        frozen_stages=-1,  # every unit trains, for BP as for MAN
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.04, momentum=0.9, weight_decay=0.0001),
)
default_hooks = dict(epoch_seed=dict(type='man_mm.EpochSeedHook'))
auto_scale_lr = dict(base_batch_size=64)
randomness = dict(seed=0)
