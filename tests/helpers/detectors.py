"""Tiny detectors of every kind: single-stage and DETR-style, of three stages, and two-stage."""

import copy

from .detection import ASSIGNER, CLASSES, PREPROCESSOR, RESNET, SMALL_FPN, STAGES, retinanet

PLAIN_SAMPLER = dict(type='RandomSampler', num=16, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False)
NMS = dict(type='nms', iou_threshold=0.7)
ANCHORS = dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[4, 8, 16, 32, 64])
CODER = dict(type='DeltaXYWHBBoxCoder')
CE, L1 = dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='L1Loss')

FCOS_NECK = {**SMALL_FPN, 'add_extra_convs': 'on_output', 'relu_before_extra_convs': True}
FCOS = dict(
    type='FCOS',
    neck=FCOS_NECK,
    bbox_head=dict(
        type='FCOSHead',
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        strides=[8, 16, 32],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=dict(type='GN', num_groups=2),
    ),
)
RPN_CFG = dict(assigner=ASSIGNER, sampler=PLAIN_SAMPLER, allowed_border=-1, pos_weight=-1, debug=False)
RCNN_CFG = dict(assigner=ASSIGNER, sampler={**PLAIN_SAMPLER, 'add_gt_as_proposals': True}, pos_weight=-1, debug=False)
FASTER_RCNN = dict(
    type='FasterRCNN',
    backbone=dict(num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    rpn_head=dict(
        type='RPNHead',
        in_channels=8,
        feat_channels=8,
        anchor_generator=ANCHORS,
        bbox_coder=CODER,
        loss_cls=CE,
        loss_bbox=L1,
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
            out_channels=8,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=8,
            fc_out_channels=8,
            roi_feat_size=3,
            num_classes=CLASSES,
            bbox_coder=CODER,
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss'),
            loss_bbox=L1,
        ),
    ),
    train_cfg=dict(rpn=RPN_CFG, rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0), rcnn=RCNN_CFG),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=10),
    ),
)


def attention(**more):
    return dict(embed_dims=16, num_heads=2, dropout=0.0, **more)


FFN = dict(embed_dims=16, feedforward_channels=16, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='ReLU', inplace=True))
SELF = attention(batch_first=True)
DETR_MATCHER = dict(
    type='HungarianAssigner',
    match_costs=[
        dict(type='ClassificationCost', weight=1.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ],
)
DETR = dict(
    type='DETR',
    num_queries=5,
    backbone=dict(out_indices=(2,)),
    neck=dict(type='ChannelMapper', in_channels=[32], kernel_size=1, out_channels=16, act_cfg=None, num_outs=1),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=SELF, ffn_cfg=FFN)),
    decoder=dict(
        num_layers=2, layer_cfg=dict(self_attn_cfg=SELF, cross_attn_cfg=SELF, ffn_cfg=FFN), return_intermediate=True
    ),
    positional_encoding=dict(num_feats=8, normalize=True),
    bbox_head=dict(
        type='DETRHead',
        num_classes=CLASSES,
        embed_dims=16,
        loss_cls=dict(type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(assigner=DETR_MATCHER),
    test_cfg=dict(max_per_img=5),
)
DEFORMABLE = dict(
    type='DeformableDETR',
    num_queries=5,
    num_feature_levels=2,
    with_box_refine=False,
    as_two_stage=False,
    backbone=dict(out_indices=(1, 2)),
    neck=dict(type='ChannelMapper', in_channels=[16, 32], kernel_size=1, out_channels=16, act_cfg=None, num_outs=2),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention(batch_first=True, num_levels=2), ffn_cfg=FFN)),
    decoder=dict(
        num_layers=1,
        return_intermediate=True,
        layer_cfg=dict(self_attn_cfg=SELF, cross_attn_cfg=attention(batch_first=True, num_levels=2), ffn_cfg=FFN),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=8, normalize=True, offset=-0.5),
    bbox_head=dict(
        type='DeformableDETRHead',
        num_classes=CLASSES,
        sync_cls_avg_factor=True,
        embed_dims=16,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=L1,
        loss_iou=dict(type='GIoULoss'),
    ),
    train_cfg=dict(
        assigner={**DETR_MATCHER, 'match_costs': [dict(type='FocalLossCost'), *DETR_MATCHER['match_costs'][1:]]}
    ),
    test_cfg=dict(max_per_img=5),
)
DETECTORS = dict(fcos=FCOS, faster_rcnn=FASTER_RCNN, detr=DETR, deformable_detr=DEFORMABLE)


def detector(name, num_modules=3, **auxiliary):
    """Config of a detector; `num_modules=None` gives the plain upstream one."""
    if name == 'retinanet':
        return retinanet(num_modules, auxiliary=auxiliary)
    cfg = copy.deepcopy(DETECTORS[name])
    net = {**RESNET, **STAGES, **cfg.get('backbone', {})}
    if num_modules is not None:
        slm = {'type': 'man_mm.SLM', 'neck': cfg['neck'], **auxiliary}
        net = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=num_modules, auxiliary=slm)
    return {**cfg, 'backbone': net, 'data_preprocessor': PREPROCESSOR}
