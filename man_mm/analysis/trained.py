"""Trained models and the images to look at them by, from a config and a checkpoint."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import load_checkpoint

from ..runs.missing_data import missing_data
from .batches import collate
from .step import build_model

__all__ = ['UNTRAINED', 'evaluation_batches', 'load_trained']

UNTRAINED = 'none'
"""In place of a checkpoint: the weights that training starts from."""


def load_trained(cfg: Config, checkpoint: str) -> Any:
    """The model of a whole config with the weights of a checkpoint, on the CPU, in evaluation mode.

    Args:
        cfg: The config that the checkpoint was trained by.
        checkpoint: A file, or `none` for weights drawn, or loaded as pretrained ones, as the config says.

    Raises:
        RuntimeError: If the weights do not fit the model.
        OSError: If there is no such file.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(cfg.get('randomness', {}).get('seed') or 0)
    model = build_model(cfg)
    if checkpoint == UNTRAINED:
        model.init_weights()
    else:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')
    model.eval()
    return model


def evaluation_batches(cfg: Config, num: int, size: int, split: str = 'test') -> Iterator[Any]:
    """The first `num` images of a data set in batches of `size`, collated, without augmentation; an incomplete last
    batch is left out.

    Args:
        cfg: A whole config.
        num: Images at most.
        size: Images of a batch.
        split: `test` or `val`; `train` takes the images of training through the pipeline of testing.

    Raises:
        ValueError: If the data is missing.
    """
    key = f'{split}_dataloader'
    missing = missing_data(cfg, (key,))
    if missing is not None:
        raise ValueError(missing)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    described = copy.deepcopy(cfg[key].dataset)
    if split == 'train':
        _innermost(described).pipeline = _innermost(cfg.test_dataloader.dataset).pipeline
    dataset = DATASETS.build(described)
    for start in range(0, min(num, len(dataset)) - size + 1, size):
        yield collate(cfg, cfg[key], [dataset[i] for i in range(start, start + size)])


def _innermost(dataset: Any) -> Any:
    return _innermost(dataset.dataset) if 'dataset' in dataset else dataset
