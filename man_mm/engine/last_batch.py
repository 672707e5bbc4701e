"""The last batch of an epoch may have one image, which some auxiliaries cannot train on: told before the first."""

from typing import Any

from mmengine.dataset import InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from ..local import LocalBackbone

__all__ = ['check_last_batch']


def check_last_batch(loader: Any, backbone: LocalBackbone, max_iters: int, num_batches: int | None) -> None:
    """Refuse batches that are too small for an auxiliary, where the sampler tells their size.

    Args:
        loader: The training loader.
        backbone: Its auxiliaries say how many images they need.
        max_iters: Of the run, which may end before the first epoch does.
        num_batches: `train_dataloader.num_batch_per_epoch`.

    Raises:
        ValueError: If the last batch of an epoch has fewer images.
    """
    batches = loader.batch_sampler if isinstance(loader, DataLoader) else None
    if type(batches) is not BatchSampler or batches.drop_last or isinstance(batches.sampler, InfiniteSampler):
        return  # a sampler that groups images has sizes of its own
    size = len(loader.sampler) % batches.batch_size or batches.batch_size
    needs = max(backbone.auxiliaries, key=lambda auxiliary: auxiliary.least_images, default=None)
    if needs is None or size >= needs.least_images or min(max_iters, num_batches or max_iters) < len(loader):
        return
    raise ValueError(
        f'train_dataloader.batch_size={batches.batch_size}: the last of {len(loader)} batches of an epoch has {size} '
        f'image(s), but man_mm.{type(needs).__name__} needs {needs.least_images}, for it normalises or compares over '
        'the batch. Set train_dataloader.drop_last=True, or a batch_size of 2 or more that leaves no such rest.'
    )
