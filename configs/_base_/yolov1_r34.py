_base_ = 'mmdet::_base_/default_runtime.py'

# YOLOv1 (Redmon et al., 2016) on a ResNet: 448 px give 14 x 14 features, the head's second convolution makes 7 x 7
# cells of them.
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='ResNet',
        depth=34,
        out_indices=(3,),
        frozen_stages=-1,  # every unit trains, for BP as for MAN
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    neck=None,
    bbox_head=dict(
        type='man_mm.YOLOV1Head',
        num_classes=80,
        in_channels=512,
        grid_size=7,
        conv_channels=1024,
    ),
    train_cfg=dict(),
    test_cfg=dict(score_thr=0.001, nms_pre=1000, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
default_hooks = dict(
    checkpoint=dict(type='man_mm.SafeCheckpointHook'),
    epoch_seed=dict(type='man_mm.EpochSeedHook'),
)
randomness = dict(seed=0)
