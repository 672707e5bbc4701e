"""Which process trains which modules."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...keys import is_count
from ...local import LocalBackbone, balanced_cuts, evaluating, run_units, train_modules
from .stand_in import stand_in

__all__ = ['BALANCED', 'check_split', 'module_flops', 'spread']

BALANCED = 'flops'


def check_split(backbone: LocalBackbone, split: str | Sequence[int], num_processes: int) -> None:
    """Raise ValueError if modules cannot be spread over so many processes, or not by this `split`."""
    starts = _starts(backbone)
    if backbone.num_modules == 1:
        raise ValueError('num_modules=1 is back-propagation, which has no modules to spread over processes.')
    if backbone.num_modules < num_processes:
        raise ValueError(
            f'num_modules={backbone.num_modules} modules are too few for {num_processes} processes, of which each '
            'trains one or more.'
        )
    if len(starts) < num_processes:
        raise ValueError(
            f"backbone.share='stage' leaves {len(starts)} runs of modules with an auxiliary of their own, too few for "
            f'{num_processes} processes: modules of one auxiliary train in one process.'
        )
    if split == BALANCED:
        return
    is_list = isinstance(split, (list, tuple)) and all(map(is_count, split))
    if not is_list or len(split) != num_processes or sum(map(int, split)) != backbone.num_modules:
        raise ValueError(
            f"model_wrapper_cfg.split={split!r} must be 'flops', or a list of {num_processes} numbers, of the modules "
            f'of each process, with the sum num_modules={backbone.num_modules}.'
        )
    cut = [backbone.local_modules[start].name for start in accumulate(map(int, split[:-1])) if start not in starts]
    if cut:
        raise ValueError(
            f"model_wrapper_cfg.split={split!r} parts modules that share an auxiliary (backbone.share='stage') before "
            f'{", ".join(cut)}. Processes may begin at modules {starts}.'
        )


def spread(
    backbone: LocalBackbone, split: str | Sequence[int], num_processes: int, costs: Sequence[int]
) -> tuple[int, ...]:
    """Return num_processes + 1 bounds: process p trains modules bounds[p] to bounds[p + 1] - 1.

    Args:
        backbone: Tells which modules share an auxiliary; these stay together.
        split: A checked one; `flops` makes the costliest process as cheap as can be.
        num_processes: Each gets one module or more.
        costs: Of each module, for `flops`.
    """
    if split != BALANCED:
        return (0, *accumulate(map(int, split)))
    starts = [*_starts(backbone), backbone.num_modules]
    together = [sum(costs[a:b]) for a, b in pairwise(starts)]
    bounds = (0, *balanced_cuts(together, num_processes), len(together))
    return tuple(starts[bound] for bound in bounds)


def _starts(backbone: LocalBackbone) -> list[int]:
    """Modules at which a process may begin: those that do not use the auxiliary of the one before."""
    pairs = pairwise(backbone.local_modules)
    return [0, *(module.index for before, module in pairs if module.auxiliary is not before.auxiliary)]


def module_flops(host: Any, backbone: LocalBackbone, data: dict[str, Any]) -> list[int]:
    """Floating-point operations of each module's forward and loss on a batch; the last one's loss is the main loss.

    The model is in evaluation mode meanwhile, so nothing of it changes.

    Args:
        host: The model, ready to train.
        backbone: Its backbone.
        data: A preprocessed batch: `inputs` (N, C, H, W) and `data_samples`.
    """
    earlier = backbone.local_modules[:-1]
    marks = []

    def count(inputs: Any, data_samples: Any = None, mode: str = 'loss') -> None:
        assert backbone.step is not None
        step, x = replace(backbone.step, backward=lambda losses, module: None), inputs
        for module in earlier:
            x = train_modules([module], backbone.backbone, x, step)
            marks.append(counter.get_total_flops())

    with evaluating(host), torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        run_units((unit for module in earlier for unit in module.units), backbone.backbone, data['inputs'])
        marks.append(counter.get_total_flops())
        with _images_of(backbone, data['inputs']):
            host(**_own_samples(data), mode='loss')
        marks.append(counter.get_total_flops())
        with stand_in(host, count):
            host(**_own_samples(data), mode='loss')
    main = marks[1] - 2 * marks[0]
    return [*(b - a for a, b in pairwise(marks[1:])), main]


def _own_samples(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, 'data_samples': deepcopy(data['data_samples'])}  # a loss may take parts out of them


@contextmanager
def _images_of(backbone: LocalBackbone, inputs: Any) -> Iterator[None]:
    """Raise ValueError if the model gives its backbone anything but the `inputs` that it got."""

    def check(net: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0] is not inputs:
            raise ValueError(
                "model_wrapper_cfg.type='man_mm.LocalPipeline': the model changes its inputs before its "
                'backbone, which the first process would have to know. man_mm.LocalDistributedDataParallel serves it.'
            )

    handle = backbone.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()
