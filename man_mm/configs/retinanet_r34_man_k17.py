# The model of configs/man/retinanet_r34_man_k17_coco.py in MMEngine's pure Python style; data and schedule are yours.
# It is written out because the wheels of MMDetection hold no configs of this style to inherit from.
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler
from mmengine.config import read_base
from mmengine.model import PretrainedInit

from man_mm.auxiliary import SLM
from man_mm.local import LocalBackbone

with read_base():
    from .local_learning import *  # noqa: F403

neck = dict(
    type=FPN,
    in_channels=[64, 128, 256, 512],
    out_channels=256,
    start_level=1,
    add_extra_convs='on_input',
    num_outs=5,
)
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=LocalBackbone,
        backbone=dict(
            type=ResNet,
            depth=34,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            frozen_stages=-1,
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=False,
            style='pytorch',
            init_cfg=dict(type=PretrainedInit, checkpoint='torchvision://resnet34'),
        ),
        num_modules=17,
        auxiliary=dict(type=SLM, neck=neck, shared_head_grad='mean'),
    ),
    neck=neck,
    bbox_head=dict(
        type=RetinaHead,
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
