"""MMSegmentation: upstream's segmentors train by modules. It is not part of `make setup`; `make test-long` adds it."""

import pytest
import torch
from mmengine.structures import PixelData

from ..helpers.upstream import check_localized, narrowed

pytestmark = pytest.mark.long

SIZE = 64
CLASSES = 5
PARTS = {'data_preprocessor.size': (SIZE, SIZE), 'decode_head.num_classes': CLASSES, 'decode_head.channels': 8}
AUXILIARY_HEAD = {'auxiliary_head.num_classes': CLASSES, 'auxiliary_head.channels': 8}
RESNET = {'pretrained': None, 'backbone.base_channels': 8, 'backbone.stem_channels': 8}
DEEPEST = {**PARTS, **AUXILIARY_HEAD, **RESNET, 'decode_head.in_channels': 256, 'auxiliary_head.in_channels': 128}
PYRAMID = {**DEEPEST, 'decode_head.in_channels': [32, 64, 128, 256]}
SWIN = {'backbone.embed_dims': 8, 'backbone.num_heads': [1, 2, 4, 8], 'backbone.depths': [2, 2, 2, 2]}
SEGMENTORS = {
    'fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py': DEEPEST,
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512.py': {
        **DEEPEST,
        'decode_head.c1_in_channels': 32,
        'decode_head.c1_channels': 4,
    },
    'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py': PYRAMID,
    'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py': {
        **PARTS,
        **AUXILIARY_HEAD,
        **SWIN,
        'decode_head.in_channels': [8, 16, 32, 64],
        'auxiliary_head.in_channels': 32,
    },
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {
        **PARTS,
        'backbone.embed_dims': 8,
        'decode_head.in_channels': [8, 16, 40, 64],
    },
}


@pytest.fixture(scope='module')
def structures():
    return pytest.importorskip('mmseg.structures', reason='MMSegmentation is not installed: `make test-long` does so')


def batch(structures):
    """Images of noise; the class of a pixel is that of its first colour."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8) for _ in range(2)]
    samples = [structures.SegDataSample(metainfo=dict(img_shape=(SIZE, SIZE))) for _ in images]
    for image, sample in zip(images, samples, strict=True):
        sample.gt_sem_seg = PixelData(data=(image[:1] % CLASSES).long())
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('lean', [False, True], ids=['whole', 'lean'])
@pytest.mark.parametrize('name', SEGMENTORS, ids=lambda name: name.partition('/')[0])
def test_a_segmentor_trains_by_modules(name, lean, structures):
    check_localized(narrowed(f'mmseg::{name}', **SEGMENTORS[name]), batch(structures), lean)
