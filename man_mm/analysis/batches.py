"""Batches to measure on: the first one of a config's data, or one of any number and size without data."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

from ..runs.missing_data import missing_data

__all__ = ['first_batch', 'synthetic_batch']

BOXES = 7
"""Objects of an image; COCO has 7.3 on average."""


def first_batch(cfg: Config) -> tuple[Any, int]:
    """The first `batch_size` images of the config's training set, collated, and the number of batches in an epoch.

    Configs of the same data get the same batch.

    Raises:
        ValueError: If the data is missing, or there are fewer images.
    """
    missing = missing_data(cfg, ('train_dataloader',))
    if missing is not None:
        raise ValueError(f'{missing} Images of noise need no data: give their size.')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    if len(dataset) < loader.batch_size:
        raise ValueError(
            f'train_dataloader.batch_size={loader.batch_size}, but the data set has {len(dataset)} images.'
        )
    collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type'])
    batch = collate([dataset[i] for i in range(loader.batch_size)])
    return batch, math.ceil(len(dataset) / loader.batch_size)


def synthetic_batch(cfg: Config, num: int, size: tuple[int, int]) -> dict[str, Any]:
    """A batch of noise with targets such as the config's task has, the same on every call.

    Args:
        cfg: A whole config of MMDetection, MMPretrain or MMagic.
        num: Images.
        size: Their height and width in px; for super-resolution, those of the low resolution.

    Raises:
        ValueError: If the config is of another library, or of a model of MMagic whose scale it does not say.
    """
    scope = cfg.get('default_scope', 'mmengine')
    if scope not in _TARGETS:
        raise ValueError(
            f'default_scope={scope!r}: a batch without data is known for {sorted(_TARGETS)}. Leave the size out to '
            'take one from the data set of the config.'
        )
    init_default_scope(scope)
    generator = torch.Generator().manual_seed(0)
    images = [_noise(size, generator) for _ in range(num)]
    return dict(inputs=images, data_samples=[_TARGETS[scope](cfg, i, size, generator) for i in range(num)])


def _noise(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)


def _boxes(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
    """Boxes of a tenth to a half of the image's sides, all of the first class."""
    sample = import_module('mmdet.structures').DetDataSample(
        metainfo=dict(img_id=index, img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    )
    sides = torch.tensor([size[1], size[0]])
    extent = (0.1 + 0.4 * torch.rand(BOXES, 2, generator=generator)) * sides
    corner = torch.rand(BOXES, 2, generator=generator) * (sides - extent)
    bboxes, labels = torch.cat([corner, corner + extent], dim=1), torch.zeros(BOXES, dtype=torch.int64)
    sample.gt_instances = InstanceData(bboxes=bboxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=bboxes[:0], labels=labels[:0])
    return sample


def _label(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
    return import_module('mmpretrain.structures').DataSample().set_gt_label(index % 2)


def _true_image(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
    """The image at high resolution."""
    net = cfg.model.get('generator', {})
    net = net.get('backbone', net)
    scale = net.get('upscale_factor') or net.get('upscale')
    if scale is None:
        raise ValueError(
            'a batch without data is known for super-resolution of images by model.generator.upscale_factor or '
            '.upscale, which this config does not have.'
        )
    image = _noise((size[0] * scale, size[1] * scale), generator)
    return import_module('mmagic.structures').DataSample(gt_img=image)


_TARGETS: dict[str, Callable[[Config, int, tuple[int, int], torch.Generator], Any]] = {
    'mmdet': _boxes,
    'mmpretrain': _label,
    'mmagic': _true_image,
}
