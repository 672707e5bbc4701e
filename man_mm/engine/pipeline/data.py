"""Data of a pipeline's processes: the first one reads all, the others nothing."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.runner import IterBasedTrainLoop, Runner

from ...registry import DATA_SAMPLERS
from .alone import alone, group_of_one

__all__ = ['read_in_first_process', 'whole_sampler']


@DATA_SAMPLERS.register_module(name='WholeSampler')
def whole_sampler(inner: str = 'DefaultSampler', **options: Any) -> Any:
    """Build a sampler that goes through the whole data set, where MMEngine's give each process a part of it.

    In a config it is `man_mm.WholeSampler`, with the options of the sampler that it stands for.

    Args:
        inner: Type of the sampler to build as if there were one process.
        options: Its options.
    """
    cfg = dict(type=inner, **options)
    if not dist.is_initialized():
        return ROOT_DATA_SAMPLERS.build(cfg)
    with alone(group_of_one()):
        return ROOT_DATA_SAMPLERS.build(cfg)


def read_in_first_process(runner: Runner) -> None:
    """Let the other processes count batches, which come to them with the activations: no randomness can part them."""
    if dist.get_rank() == 0:
        return
    loop: Any = runner.train_loop
    loop.dataloader = _Counted(loop.dataloader)
    if isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator = itertools.repeat(None)


class _Counted:
    """A data loader of which no batch is read: as many times None as it has batches, and its attributes."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[None]:
        return itertools.repeat(None, len(self._loader))

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
