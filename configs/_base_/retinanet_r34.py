_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
model = dict(
    backbone=dict(
        depth=34,
        frozen_stages=-1,  # every unit trains, for BP as for MAN
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
default_hooks = dict(
    checkpoint=dict(type='man_mm.SafeCheckpointHook'),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
randomness = dict(seed=0)
