_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/default_runtime.py']

# RetinaNet on the ImageNet ResNet-50 in data/resnet50_caffe.pth
model = dict(
    data_preprocessor=dict(mean=[103.939, 116.779, 123.68], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        frozen_stages=-1,  # every unit trains, as MAN needs at K = 17
        style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='data/resnet50_caffe.pth'),
    ),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(type='man_mm.SafeCheckpointHook', max_keep_ckpts=1),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
randomness = dict(seed=0)
