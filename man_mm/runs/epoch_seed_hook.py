"""EpochSeedHook: a resumed run draws the random numbers of an unbroken one."""

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner, set_random_seed

from ..keys import strict_keys
from ..registry import HOOKS

__all__ = ['EpochSeedHook']


@HOOKS.register_module()
@strict_keys
class EpochSeedHook(Hook):
    """Seeds every epoch from the run's seed and the epoch's number, so that a resumed run repeats an unbroken one.

    In an `IterBasedTrainLoop`, which has one epoch, it seeds every iteration instead, before its batch is read.
    Transforms that keep images to mix in (`CachedMosaic`, `CachedMixUp`) start every epoch with none, as they do in
    workers that start anew.

    MMEngine keeps no random state in checkpoints. Data workers start anew every epoch only with
    `persistent_workers=False`; with persistent ones, a resumed run draws other augmentations. The order of the data
    repeats only with `randomness.seed` in the config: data loaders are built before a checkpoint tells its seed. An
    epoch-based run that saves within epochs (`by_epoch=False`) resumes at the start of the broken epoch, as upstream's.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Warn if the order of the data is not that of the run that is resumed."""
        sampler = runner.train_dataloader.sampler
        if runner.iter > 0 and getattr(sampler, 'seed', runner.seed) != runner.seed:
            print_log(
                'The resumed run reads its data in another order than the unbroken one would have: '
                'randomness=dict(seed=...) is not in the config, so every start draws a seed of its own.',
                logger='current',
                level=logging.WARNING,
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, numpy and torch; empty what transforms have kept."""
        _seed(runner, runner.epoch)
        _empty_caches(runner.train_dataloader.dataset)
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.train_loop.dataloader_iterator = _seeded(runner, runner.train_loop.dataloader_iterator)


def _empty_caches(part: Any) -> None:
    """A data set, one inside, its pipeline, or one of its transforms, which may hold others."""
    if isinstance(part, (list, tuple)):
        for inner in part:
            _empty_caches(inner)
        return
    cache = getattr(part, 'results_cache', None)
    if isinstance(cache, list):
        cache.clear()
    for name in ('dataset', 'datasets', 'pipeline', 'transforms'):
        _empty_caches(getattr(part, name, ()))


def _seed(runner: Runner, number: int) -> None:
    set_random_seed((runner.seed + 1000003 * number + get_rank()) % 2**32)


def _seeded(runner: Runner, batches: Iterator[Any]) -> Iterator[Any]:
    """Batches, each read from a seed of its own; a resumed loop reads those before its own too, and drops them."""
    number = 0
    while True:
        _seed(runner, number)
        batch = next(batches)
        number += 1
        yield batch
