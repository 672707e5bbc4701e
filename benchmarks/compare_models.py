"""Tiny models of every kind and images for them, as configs: what `compare_cases.py` trains.

They name nothing of the package but types of its registries, so that the same file serves any two commits.
"""

import copy
from typing import Any

import torch
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

Cfg = dict[str, Any]

CLASSES = 3
BOXES = ((4.0, 6.0, 28.0, 40.0), (20.0, 10.0, 60.0, 50.0), (30.0, 34.0, 44.0, 52.0))


@DATASETS.register_module()
class TinyImages(Dataset):
    """Random images, 64 px for a detector and 16 px else, with boxes, a class, or the same image twice as large."""

    def __init__(self, kind: str, size: int = 16, num: int = 32) -> None:
        self.kind, self.size, self.num = kind, size, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Cfg:
        if index >= self.num:
            raise IndexError(index)
        self._generator = torch.Generator().manual_seed(index)
        return dict(zip(('inputs', 'data_samples'), getattr(self, f'_{self.kind}')(index), strict=True))

    def _image(self, size: int) -> torch.Tensor:
        return torch.randint(0, 256, (3, size, size), generator=self._generator, dtype=torch.uint8)

    def _detector(self, index: int) -> tuple[torch.Tensor, Any]:
        from mmdet.structures import DetDataSample

        shape = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=dict(img_id=index, **shape))
        boxes = torch.tensor(BOXES[: 1 + index % 3])
        labels = (torch.arange(len(boxes)) + index) % CLASSES
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        return self._image(64), sample

    def _classifier(self, index: int) -> tuple[torch.Tensor, Any]:
        from mmpretrain.structures import DataSample

        return self._image(self.size), DataSample().set_gt_label(index // 2 % CLASSES)

    def _editor(self, index: int) -> tuple[torch.Tensor, Any]:
        from mmagic.structures import DataSample

        return self._image(self.size), DataSample(gt_img=self._image(2 * self.size))


RESNET = dict(type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='BN'), norm_eval=True, style='pytorch')
FPN = dict(
    type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, start_level=1, add_extra_convs='on_input', num_outs=5
)
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0, ignore_iof_thr=-1)
NMS = dict(type='nms', iou_threshold=0.5)
CODER = dict(type='DeltaXYWHBBoxCoder')
L1 = dict(type='L1Loss')
RETINA_HEAD = dict(
    type='RetinaHead',
    num_classes=CLASSES,
    in_channels=8,
    feat_channels=8,
    stacked_convs=1,
    anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32, 64, 128]
    ),
    bbox_coder=CODER,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True),
    loss_bbox=L1,
)
RETINANET = dict(
    type='RetinaNet',
    neck=FPN,
    bbox_head=RETINA_HEAD,
    train_cfg=dict(
        assigner=ASSIGNER, sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.01, nms=NMS, max_per_img=10),
)
FCOS = dict(
    type='FCOS',
    neck={**FPN, 'add_extra_convs': 'on_output', 'relu_before_extra_convs': True},
    bbox_head=dict(
        type='FCOSHead',
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type='GN', num_groups=2),
    ),
)
SAMPLER = dict(type='RandomSampler', num=16, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False)
PROPOSALS = dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0)
FASTER_RCNN = dict(
    type='FasterRCNN',
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, num_outs=5),
    rpn_head=dict(
        type='RPNHead',
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=CODER,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
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
    train_cfg=dict(
        rpn=dict(assigner=ASSIGNER, sampler=SAMPLER, allowed_border=-1, pos_weight=-1, debug=False),
        rpn_proposal=PROPOSALS,
        rcnn=dict(assigner=ASSIGNER, sampler={**SAMPLER, 'add_gt_as_proposals': True}, pos_weight=-1, debug=False),
    ),
    test_cfg=dict(rpn=PROPOSALS, rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=10)),
)
ATTENTION = dict(embed_dims=16, num_heads=2, dropout=0.0, batch_first=True)
FFN = dict(embed_dims=16, feedforward_channels=16, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='ReLU', inplace=True))
COSTS = [
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]
MAPPER = dict(type='ChannelMapper', kernel_size=1, out_channels=16, act_cfg=None)
DETR = dict(
    type='DETR',
    num_queries=5,
    backbone=dict(out_indices=(3,)),
    neck=dict(in_channels=[32], num_outs=1, **MAPPER),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=ATTENTION, ffn_cfg=FFN)),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(self_attn_cfg=ATTENTION, cross_attn_cfg=ATTENTION, ffn_cfg=FFN),
        return_intermediate=True,
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
    train_cfg=dict(
        assigner=dict(type='HungarianAssigner', match_costs=[dict(type='ClassificationCost', weight=1.0), *COSTS])
    ),
    test_cfg=dict(max_per_img=5),
)
DEFORMABLE_DETR = dict(
    type='DeformableDETR',
    num_queries=5,
    num_feature_levels=3,
    with_box_refine=False,
    as_two_stage=False,
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(in_channels=[8, 16, 32], num_outs=3, **MAPPER),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg={**ATTENTION, 'num_levels': 3}, ffn_cfg=FFN)),
    decoder=dict(
        num_layers=1,
        return_intermediate=True,
        layer_cfg=dict(self_attn_cfg=ATTENTION, cross_attn_cfg={**ATTENTION, 'num_levels': 3}, ffn_cfg=FFN),
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
    train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=[dict(type='FocalLossCost'), *COSTS])),
    test_cfg=dict(max_per_img=5),
)
YOLOV1 = dict(
    type='SingleStageDetector',
    neck=None,
    bbox_head=dict(type='man_mm.YOLOV1Head', num_classes=CLASSES, in_channels=32, conv_channels=8, conv_strides=(1,)),
    test_cfg=dict(score_thr=0.05, nms_pre=50, nms=NMS, max_per_img=10),
)
DETECTORS: dict[str, Cfg] = dict(
    retinanet=RETINANET,
    fcos=FCOS,
    faster_rcnn=FASTER_RCNN,
    detr=DETR,
    deformable_detr=DEFORMABLE_DETR,
    yolov1=YOLOV1,
)


def local(net: Cfg, num_modules: int | None, auxiliary: Cfg, options: Cfg) -> Cfg:
    """Config of a LocalBackbone around `net`; `num_modules=None` is `net` itself."""
    if num_modules is None:
        return net
    whole = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=num_modules, auxiliary=auxiliary)
    return {**whole, **options}


def detector(
    name: str = 'retinanet',
    num_modules: int | None = 4,
    auxiliary: Cfg | None = None,
    backbone: Cfg | None = None,
    **options: Any,
) -> Cfg:
    """Config of a detector on a ResNet-18 of a sixteenth of the width: 9 units."""
    cfg = copy.deepcopy(DETECTORS[name])
    net = {**RESNET, **cfg.pop('backbone', {}), **(backbone or {})}
    slm = {'type': 'man_mm.SLM', 'neck': cfg['neck'] or 'shared', **(auxiliary or {})}
    preprocessor = dict(type='DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=32)
    return {**cfg, 'data_preprocessor': preprocessor, 'backbone': local(net, num_modules, slm, options)}


RULES: dict[str, Cfg] = {
    'man': dict(type='man_mm.SLM', head='private', bank_vectors=True),
    'man, shared head': dict(type='man_mm.SLM'),
    'slim': dict(type='man_mm.SlimSLM', channels=8, head='private'),
    'dgl': dict(type='man_mm.DGL'),
    'predsim': dict(type='man_mm.PredSim', max_features=64),
    'infopro': dict(type='man_mm.InfoPro', lambda1=(5.0, 0.2), lambda2=(0.05, 0.5)),
    'infopro, contrast': dict(type='man_mm.InfoPro', lambda1=(5.0, 0.2), lambda2=(0.05, 0.5), estimator='contrast'),
    'auglocal': dict(type='man_mm.AugLocal', depth=2),
}
CONVNEXT = dict(depths=[2, 1, 2, 1], channels=[8, 16, 32, 64])
SWIN = dict(embed_dims=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4))
VIT = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
POOL = dict(type='GlobalAveragePooling')
CLASSIFIERS: dict[str, tuple[Cfg, Cfg | None, Cfg]] = {
    'cifar': (dict(type='man_mm.CIFARResNet', depth=14, base_channels=4), POOL, dict(in_channels=16)),
    'resnet': (
        dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
        POOL,
        dict(in_channels=64),
    ),
    'mobilenet': (dict(type='MobileNetV2', widen_factor=0.25), POOL, dict(in_channels=1280)),
    'convnext': (dict(type='ConvNeXt', arch=CONVNEXT, drop_path_rate=0.2), None, dict(in_channels=64)),
    'swin': (
        dict(type='SwinTransformer', arch=SWIN, img_size=64, window_size=2, drop_path_rate=0.2),
        POOL,
        dict(in_channels=64),
    ),
    'vit': (
        dict(type='VisionTransformer', arch=VIT, img_size=64, patch_size=16, drop_rate=0.1, drop_path_rate=0.1),
        None,
        dict(type='VisionTransformerClsHead', in_channels=16),
    ),
}
"""Backbone, neck and head. The first sees images of 16 px, the others of 64 px. Random layers take part."""


def classifier(
    rule: str = 'man',
    num_modules: int | None = 4,
    net: str = 'cifar',
    auxiliary: Cfg | None = None,
    backbone: Cfg | None = None,
    **options: Any,
) -> Cfg:
    """Config of an ImageClassifier; its CIFAR ResNet has 7 units, 10 with depth 20."""
    body, neck, head = copy.deepcopy(CLASSIFIERS[net])
    size = classifier_size(net)
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=CLASSES, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=False),
        backbone=local(
            {**body, **(backbone or {})},
            num_modules,
            {**RULES[rule], **(auxiliary or {})},
            {'probe_size': (size, size), **options},
        ),
        neck=neck,
        head={'type': 'LinearClsHead', 'num_classes': CLASSES, **head},
    )


def classifier_size(net: str) -> int:
    """Height and width of the images in px."""
    return 16 if net == 'cifar' else 64


EDITORS: dict[str, Cfg] = dict(
    edsr=dict(type='EDSRNet', in_channels=3, out_channels=3, mid_channels=8, num_blocks=4, upscale_factor=2),
    swinir=dict(
        type='SwinIRNet',
        upscale=2,
        img_size=16,
        window_size=8,
        embed_dim=12,
        depths=[2, 2, 2],
        num_heads=[2, 2, 2],
        upsampler='pixelshuffle',
    ),
)
LIGHT_TAIL: Cfg = dict(
    conv_after_body=None,
    upsample=dict(type='pixel_shuffle', in_channels=8, out_channels=3, scale_factor=2, upsample_kernel=3),
    conv_last=None,
)
"""Layers for those behind EDSR's last unit."""


def editor(net: str = 'edsr', num_modules: int | None = 3, auxiliary: Cfg | None = None, **options: Any) -> Cfg:
    """Config of a super-resolution model, twice the size: EDSR has 5 units, SwinIR 4."""
    slm = {'type': 'man_mm.SLM', **(auxiliary or {})}
    return dict(
        type='BaseEditModel',
        generator=local(EDITORS[net], num_modules, slm, options),
        pixel_loss=dict(type='L1Loss', loss_weight=1.0, reduction='mean'),
        data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
    )
