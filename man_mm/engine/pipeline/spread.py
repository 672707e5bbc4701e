"""Which process trains which modules."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...keys import is_count
from ...local import Handover, LocalBackbone, evaluating, partition

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
    cut = [start for start in accumulate(map(int, split[:-1])) if start not in starts]
    if cut:
        raise ValueError(
            f"model_wrapper_cfg.split={split!r} parts modules that share an auxiliary (backbone.share='stage') before "
            f'{", ".join(map(backbone.partition.name, cut))}. Processes may begin at modules {starts}.'
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
    names = [backbone.partition.name(start) for start in starts[:-1]]
    return tuple(starts[bound] for bound in partition(names, num_processes, 'memory', costs=together).bounds)


def _starts(backbone: LocalBackbone) -> list[int]:
    """Modules at which a process may begin: those that do not use the auxiliary of the one before."""
    groups = [*backbone.groups, None]  # the last module has none
    return [m for m, group in enumerate(groups) if m == 0 or group != groups[m - 1]]


def module_flops(host: Any, backbone: LocalBackbone, data: dict[str, Any]) -> list[int]:
    """Floating-point operations of each module's forward and loss on a batch; the last one's loss is the main loss.

    The model is in evaluation mode meanwhile, so nothing of it changes.

    Args:
        host: The model, ready to train.
        backbone: Its backbone.
        data: A preprocessed batch: `inputs` (N, C, H, W) and `data_samples`.
    """
    assert backbone.readout is not None
    inputs, targets = data['inputs'], data['data_samples']
    last = backbone.num_modules - 1
    marks = []
    try:
        with evaluating(host), torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            backbone.unrolled.run(backbone.backbone, 0, backbone.partition.span(last)[0], inputs)
            marks.append(counter.get_total_flops())
            host(inputs=inputs, data_samples=targets, mode='loss')
            marks.append(counter.get_total_flops())
            backbone.bank.open(inputs, targets)
            start = Handover(0, inputs, {})
            for module in range(last):
                x = backbone.learn(start, module + 1, lambda losses, module: None, backbone.readout)
                start = Handover(module + 1, x.detach(), {})
                marks.append(counter.get_total_flops())
    finally:
        backbone.bank.close()
    main = marks[1] - 2 * marks[0]
    return [*(b - a for a, b in pairwise(marks[1:])), main]
