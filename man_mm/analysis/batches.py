"""Batches to measure on: the first one of a config's data, or one of any number and size without data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from torch import Tensor

from ..readout import readout_of
from ..runs.missing_data import missing_data

__all__ = ['collate', 'first_batch', 'synthetic_batch']


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
    batch = collate(cfg, loader, [dataset[i] for i in range(loader.batch_size)])
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
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    target = readout_of(cfg).synthetic_target
    generator = torch.Generator().manual_seed(0)
    images = [_noise(size, generator) for _ in range(num)]
    targets = [target(cfg, i, size, generator) for i in range(num)]
    pairs = zip(images, targets, strict=True)
    samples = [dict(inputs=image, data_samples=sample) for image, sample in pairs]
    return collate(cfg, cfg.get('train_dataloader') or {}, samples)


def collate(cfg: Config, loader: Mapping[str, Any], samples: Sequence[Any]) -> Any:
    """A batch of `samples` as a loader hands it out that a config describes: a classifier's images as one tensor."""
    default = dict(type=readout_of(cfg).collate)
    return FUNCTIONS.get((loader.get('collate_fn') or default)['type'])(samples)


def _noise(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
