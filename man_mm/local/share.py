"""One auxiliary network for several modules: its weights, gradients and momentum are paid once."""

import logging
from collections.abc import Hashable, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import ModuleList
from torch import nn

from ..registry import MODELS
from .place import Place

__all__ = ['build_auxiliaries', 'layers_of']

SHARES = ('none', 'stage')


def build_auxiliaries(
    cfg: dict[str, Any] | None, places: Sequence[Place], share: str
) -> tuple[ModuleList, tuple[int, ...]]:
    """Build the auxiliaries of all modules but the last one.

    Args:
        cfg: Config of an auxiliary.
        places: Where they stand, in order.
        share: `none`, or `stage`: of modules in a row that end in one stage, and whose auxiliaries have the same
            signature, all use the first one's.

    Returns:
        The auxiliaries, and the index of the one that each module uses, which never falls.

    Raises:
        ValueError: If `share` is neither.
    """
    if share not in SHARES:
        raise ValueError(f'share={share!r} must be one of {SHARES}.')
    auxiliaries, groups, latest = ModuleList(), [], None
    for place in places:
        auxiliary = MODELS.build(dict(cfg or {}, place=place))
        key = (place.stage, auxiliary.signature()) if share == 'stage' else place.module
        if key != latest:
            auxiliaries.append(auxiliary)
        groups.append(len(auxiliaries) - 1)
        latest = key
    if share == 'stage' and len(auxiliaries) == len(places):
        print_log(
            "LocalBackbone: share='stage' has nothing to act on: no two modules in a row end in the same stage and "
            'have auxiliaries of the same layers.',
            logger='current',
            level=logging.WARNING,
        )
    return auxiliaries, tuple(groups)


def layers_of(net: nn.Module) -> tuple[Hashable, ...]:
    """Kinds, settings and sizes of all layers of `net` in order, without their names.

    Settings of layers without parameters are left out: rates of dropout grow from block to block in many networks.
    """
    return tuple((type(layer), *_parameters_of(layer)) for layer in net.modules())


def _parameters_of(layer: nn.Module) -> tuple[Hashable, ...]:
    own = [(name, tuple(p.shape), p.requires_grad) for name, p in layer.named_parameters(recurse=False)]
    buffers = [(name, tuple(buffer.shape)) for name, buffer in layer.named_buffers(recurse=False)]
    return (layer.extra_repr(), *own, *buffers) if own else (*buffers,)
