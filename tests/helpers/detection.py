"""Tiny models and batches: a detector trains a step in tens of milliseconds on a CPU."""

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

from .device import DEVICE

CLASSES = 3
BOXES = ((4.0, 6.0, 28.0, 40.0), (20.0, 10.0, 60.0, 50.0), (30.0, 34.0, 44.0, 52.0))

PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=32)
RESNET = dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN'), norm_eval=True, style='pytorch')
FPN = dict(
    type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, start_level=1, add_extra_convs='on_input', num_outs=4
)
RETINA_HEAD = dict(
    type='RetinaHead',
    num_classes=CLASSES,
    in_channels=8,
    feat_channels=8,
    stacked_convs=1,
    anchor_generator=dict(
        type='AnchorGenerator',
        octave_base_scale=4,
        scales_per_octave=1,
        ratios=[1.0],
        strides=[8, 16, 32, 64],
    ),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    loss_cls=dict(type='FocalLoss', use_sigmoid=True),
    loss_bbox=dict(type='L1Loss'),
)
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0, ignore_iof_thr=-1)
TRAIN_CFG = dict(assigner=ASSIGNER, sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False)
TEST_CFG = dict(nms_pre=50, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)


def build(cfg, seed=0, scope='mmdet'):
    """Build from a config the way a Runner does, on the tests' device; `seed` alone decides the initial weights."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(copy.deepcopy(cfg)))
        model.init_weights()
    return model.to(DEVICE)


def local_backbone(backbone=None, num_modules=4, auxiliary=None, neck=FPN, **options):
    """Config of a LocalBackbone; `auxiliary` holds the SLM's options."""
    return dict(
        type='man_mm.LocalBackbone',
        backbone={**RESNET, **(backbone or {})},
        num_modules=num_modules,
        auxiliary={'type': 'man_mm.SLM', 'neck': neck, **(auxiliary or {})},
        **options,
    )


def retinanet(num_modules=4, backbone=None, auxiliary=None, **options):
    """Config of a RetinaNet; `num_modules=None` gives the plain upstream one."""
    net = {**RESNET, **(backbone or {})}
    if num_modules is not None:
        net = local_backbone(net, num_modules, auxiliary, **options)
    return dict(
        type='RetinaNet',
        data_preprocessor=PREPROCESSOR,
        backbone=net,
        neck=FPN,
        bbox_head=RETINA_HEAD,
        train_cfg=TRAIN_CFG,
        test_cfg=TEST_CFG,
    )


STAGES = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2))
SMALL_FPN = {**FPN, 'in_channels': [8, 16, 32], 'num_outs': 3}
SMALL_HEAD = {**RETINA_HEAD, 'anchor_generator': {**RETINA_HEAD['anchor_generator'], 'strides': [8, 16, 32]}}


def small_retinanet(num_modules, backbone=None, auxiliary=None, **options):
    """A RetinaNet of three stages, seven units and three levels."""
    model = retinanet(num_modules, {**STAGES, **(backbone or {})}, {'neck': SMALL_FPN, **(auxiliary or {})}, **options)
    return {**model, 'neck': SMALL_FPN, 'bbox_head': SMALL_HEAD}


TINY_STAGES = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
TINY_FPN = dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=2)
TINY_HEAD = {**RETINA_HEAD, 'anchor_generator': {**RETINA_HEAD['anchor_generator'], 'strides': [4, 8]}}


def tiny_retinanet(num_modules, backbone=None, auxiliary=None, **options):
    """A RetinaNet of two stages, five units and two levels, for which the neck reads both stages."""
    model = retinanet(
        num_modules, {**TINY_STAGES, **(backbone or {})}, {'neck': TINY_FPN, **(auxiliary or {})}, **options
    )
    return {**model, 'neck': TINY_FPN, 'bbox_head': TINY_HEAD}


def images(num=2, size=64, seed=0):
    """Normalised images (N, 3, size, size) on the tests' device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, 3, size, size, generator=generator, device='cpu').to(DEVICE)


def sample(index=0, boxes=BOXES, size=64):
    """One image and its data sample, as a data loader hands them out."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(index)
    data_sample = DetDataSample(
        metainfo=dict(img_id=index, img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
    )
    labels = torch.arange(len(boxes)) % CLASSES
    data_sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)
    data_sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
    return torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8, device='cpu'), data_sample


def batch(num=2, first=0, **options):
    """A batch of `num` images from index `first`; every image has the same boxes, so losses average exactly."""
    pairs = [sample(first + i, **options) for i in range(num)]
    return dict(inputs=[image for image, _ in pairs], data_samples=[data_sample for _, data_sample in pairs])
