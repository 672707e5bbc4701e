"""MMSegmentation and MMPose by the four keys. Neither is in the set-up: docs/downstream.md says how to run this."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from man_mm.readout import build_readout

from ..helpers.detection import build, local_backbone
from ..helpers.training import SpyWrapper, Trainer, local_parameters, reached

SIZE = 64
CLASSES = 3
KEYPOINTS = 4
RESNET = dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN'), norm_eval=True)
MEAN_STD = dict(mean=[120.0] * 3, std=[60.0] * 3)


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8) for _ in range(2)]


def segmentor(head, **backbone):
    """A segmentor, and a batch for it."""
    structures = pytest.importorskip('mmseg.structures', reason='MMSegmentation is not part of the set-up')
    local = local_backbone({**RESNET, **backbone}, 4, dict(neck='shared', shared_head_grad='mean'))
    head = dict(num_classes=CLASSES, norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss'), **head)
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(SIZE, SIZE), **MEAN_STD),
        backbone=local,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    samples = []
    for image in images():
        sample = structures.SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE)))
        sample.gt_sem_seg = PixelData(data=(image[:1] % CLASSES).long())
        samples.append(sample)
    return build(model, scope='mmseg'), dict(inputs=images(), data_samples=samples)


def fcn():
    head = dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=1, dropout_ratio=0)
    return segmentor(head, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))


def upernet():
    widths = dict(in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], channels=8, pool_scales=(1, 2))
    return segmentor(dict(type='UPerHead', dropout_ratio=0, **widths), type='ResNetV1c', stem_channels=8)


def pose():
    """A top-down estimator of heatmaps, and a batch for it."""
    structures = pytest.importorskip('mmpose.structures', reason='MMPose is not part of the set-up')
    codec = dict(type='MSRAHeatmap', input_size=(SIZE, SIZE), heatmap_size=(SIZE // 4, SIZE // 4), sigma=2)
    model = dict(
        type='TopdownPoseEstimator',
        data_preprocessor=dict(type='PoseDataPreprocessor', **MEAN_STD),
        backbone=local_backbone({**RESNET, 'out_indices': (3,)}, 4, dict(neck='shared')),
        head=dict(
            type='HeatmapHead',
            in_channels=64,
            out_channels=KEYPOINTS,
            deconv_out_channels=(8, 8, 8),
            deconv_kernel_sizes=(4, 4, 4),
            loss=dict(type='KeypointMSELoss', use_target_weight=True),
            decoder=codec,
        ),
    )
    samples = []
    for index, _ in enumerate(images()):
        sample = structures.PoseDataSample(metainfo=dict(img_shape=(SIZE, SIZE)))
        heatmaps = np.random.default_rng(index).random((KEYPOINTS, SIZE // 4, SIZE // 4), dtype=np.float32)
        sample.gt_fields = PixelData(heatmaps=torch.from_numpy(heatmaps))
        weights = torch.ones(1, KEYPOINTS)
        sample.gt_instance_labels = InstanceData(keypoint_weights=weights)
        samples.append(sample)
    return build(model, scope='mmpose'), dict(inputs=images(), data_samples=samples)


@pytest.mark.parametrize('make', [fcn, upernet, pose], ids=lambda make: make.__name__)
def test_a_model_of_another_library_trains_in_isolated_modules(make):
    model, data = make()
    assert build_readout(model, 4).extract == 'extract_feat'
    shared = {name for name, _ in model.named_parameters() if not name.startswith('backbone.')}
    seen = {}

    def before(loss, module):
        seen[module] = reached(loss, model)

    run = Trainer(model, wrapper=SpyWrapper, before=before)
    assert run.step(data)['loss'].isfinite()
    assert list(seen) == [0, 1, 2, None]
    for module in range(3):
        assert seen[module] - shared == local_parameters(model, module)
    assert seen[None] - shared == local_parameters(model, 3)
    assert set(run.gradients) == {name for name, p in model.named_parameters() if p.requires_grad}
