"""LocalModule: a run of units that is trained by itself, with the network that trains it."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmengine.logging import print_log
from mmengine.model import ModuleList
from torch import Tensor, nn

from ..keys import refuse_unknown_keys
from ..registry import MODELS
from .auxiliary import Auxiliary, Site
from .dry_run import Shape
from .partition import Partition
from .units import Activation, Unit, Unrolled, detached, run_units

__all__ = ['LocalModule', 'build_modules']

SHARES = ('none', 'stage')


@dataclass(frozen=True, eq=False)
class LocalModule:
    """One of the K gradient-isolated parts of a backbone. It is data: layers are found in the `net` that it is given.

    Args:
        index: From 0.
        name: E.g. `module 3 (layer1.2 .. layer2.1)`.
        units: What it runs.
        auxiliary: What trains it; None for the last one, which the main loss trains.
        owns_auxiliary: Whether no later module is trained by the same auxiliary.
        recomputes: Whether a block of it has upstream's `with_cp`.
    """

    index: int
    name: str
    units: tuple[Unit, ...]
    auxiliary: Auxiliary | None = None
    owns_auxiliary: bool = False
    recomputes: bool = False

    def run(self, net: nn.Module, x: Activation) -> tuple[Activation, dict[str, Tensor]]:
        """Run its units, found in `net`, on `x`, which is detached: the only live graph is its own.

        Returns:
            Its output and the taps that it made. They carry its graph.
        """
        # upstream's blocks are checkpointed only if their input requires a gradient, which images have none of
        return run_units(self.units, net, detached(x, requires_grad=self.recomputes and self.index > 0))

    def parameters(self, net: nn.Module) -> Iterator[nn.Parameter]:
        """Parameters that get their last gradient from this module: its units', found in `net`, and its auxiliary's,
        unless a later module is trained by that one too.
        """
        for unit in self.units:
            yield from unit.parameters(net)
        if self.auxiliary is not None and self.owns_auxiliary:
            yield from self.auxiliary.parameters()

    def __str__(self) -> str:
        return self.name


def build_modules(
    net: nn.Module,
    unrolled: Unrolled,
    partition: Partition,
    auxiliary: dict[str, Any] | None,
    share: str,
    shapes: Callable[[], list[Shape]],
) -> tuple[tuple[LocalModule, ...], ModuleList]:
    """Build the modules of a backbone, and the auxiliaries that train all but the last one.

    Args:
        net: The wrapped backbone.
        unrolled: Its description.
        partition: How it is cut.
        auxiliary: Config of an auxiliary.
        share: `none`, or `stage`: of modules in a row that end in one stage, and whose auxiliaries have the same
            signature, all use the first one's.
        shapes: Returns the shape of every unit's output for one image.

    Returns:
        The modules in order, and the auxiliaries, each once.

    Raises:
        ValueError: If `share` is neither, or modules have nothing to be trained by.
    """
    num_modules = partition.num_modules
    if share not in SHARES:
        raise ValueError(f'share={share!r} must be one of {SHARES}.')
    if num_modules > 1 and not (isinstance(auxiliary, dict) and 'type' in auxiliary):
        raise ValueError(
            f'auxiliary={auxiliary!r}: with num_modules={num_modules} every module but the last one needs the '
            "config of a network that trains it, e.g. auxiliary=dict(type='man_mm.SLM', neck=...)."
        )
    if num_modules == 1 and auxiliary:  # none is built, and a misspelt key would be met when K is raised
        kind = auxiliary.get('type')
        cls = MODELS.get(kind) if isinstance(kind, str) else kind
        if cls is not None and hasattr(cls, 'given_keys'):
            refuse_unknown_keys(cls, {key: value for key, value in auxiliary.items() if key != 'type'})
    used = _auxiliaries(net, unrolled, partition, auxiliary or {}, share, cache(shapes))
    modules = []
    for index in range(num_modules):
        units = unrolled.units[slice(*partition.span(index))]
        own = used[index] if index < len(used) else None
        owns = own is not None and all(own is not other for other in used[index + 1 :])
        modules.append(LocalModule(index, partition.name(index), units, own, owns, _recomputes(units, net)))
    return tuple(modules), ModuleList(dict.fromkeys(used))


def _auxiliaries(
    net: nn.Module,
    unrolled: Unrolled,
    partition: Partition,
    cfg: dict[str, Any],
    share: str,
    shapes: Callable[[], list[Shape]],
) -> list[Auxiliary]:
    """The auxiliary of each module but the last one."""
    used: list[Auxiliary] = []
    latest: Any = None
    rule = cfg.get('type')
    for module in range(partition.num_modules - 1):
        site = Site(net, unrolled, partition, module, shapes, str(getattr(rule, '__name__', rule)))
        auxiliary: Auxiliary = MODELS.build(dict(cfg, site=site))
        signature = auxiliary.signature() if share == 'stage' else None
        key = None if signature is None else (site.stage, signature)
        used.append(used[-1] if key is not None and key == latest else auxiliary)
        latest = key
    if share == 'stage' and len(set(used)) == len(used):
        print_log(
            "LocalBackbone: share='stage' has nothing to act on: no two modules in a row end in the same stage and "
            'have auxiliaries of the same layers.',
            logger='current',
            level=logging.WARNING,
        )
    return used


def _recomputes(units: tuple[Unit, ...], net: nn.Module) -> bool:
    layers = (layer for unit in units for path in unit.layers for layer in net.get_submodule(path).modules())
    return any(getattr(layer, 'with_cp', False) for layer in layers)
