"""A backbone that describes itself: its forward, traced, as units, taps and `finish`.

Blocks are leaves, chains of blocks are looked into. A cut is possible wherever one tensor, or one list of tensors,
leads on to the last unit, with sizes beside it; what the rest of the forward reads besides is a tap.
"""

import itertools
import pickle
from collections.abc import Sequence

from torch import nn

from ..dry_run import copy_and_image, in_mode
from ..units import Unrolled
from .pieces import units_of
from .tracer import trace

__all__ = ['SIZES', 'Size', 'units_by_trace']

Size = tuple[int, int]
"""Height and width in px."""
SIZES: list[Size] = [(64, 96), (64, 64), (112, 112), (224, 224), (256, 256), (300, 300), (32, 32)]
"""Sizes of images that one or the other backbone takes."""


def units_by_trace(backbone: nn.Module, sizes: Sequence[Size]) -> Unrolled:
    """What a trace finds; with the blocks of larger layers, where these make units.

    Args:
        backbone: What to trace.
        sizes: Of images; the first size that the forward takes is traced.

    Raises:
        Exception: Of any kind, which tells why there is nothing.
    """
    with in_mode(backbone, True):
        found = _trace_units(backbone, sizes, frozenset())
        for kind in _kinds_with_blocks(backbone, found):
            try:
                finer = _trace_units(backbone, sizes, frozenset({kind}))
            except Exception:  # what is one step outside may be none inside
                continue
            if _are_units(_blocks(backbone, found, kind), finer):
                found = finer
    return found


def _kinds_with_blocks(backbone: nn.Module, unrolled: Unrolled) -> list[type[nn.Module]]:
    """Types of layers among the units that hold a list of layers."""
    layers = (backbone.get_submodule(path) for unit in unrolled.units for path in unit.layers)
    return [kind for kind in dict.fromkeys(map(type, layers)) if len(_blocks(backbone, unrolled, kind)) > 1]


def _blocks(backbone: nn.Module, unrolled: Unrolled, kind: type[nn.Module]) -> list[str]:
    """Paths of the layers, themselves of layers, in the lists that layers of `kind` among the units hold."""
    paths = (path for unit in unrolled.units for path in unit.layers)
    holders = ((path, backbone.get_submodule(path)) for path in paths)
    return [
        f'{path}.{name}.{i}'
        for path, holder in holders
        if type(holder) is kind
        for name, blocks in holder.named_children()
        if isinstance(blocks, nn.ModuleList)
        for i, block in enumerate(blocks)
        if not isinstance(block, (nn.Sequential, nn.ModuleList)) and any(block.children())
    ]


def _are_units(blocks: list[str], unrolled: Unrolled) -> bool:
    """Whether every block lies in a unit without the others."""
    holders = [
        {path for path in blocks if any(f'{layer}.'.startswith(f'{path}.') for layer in unit.layers)}
        for unit in unrolled.units
    ]
    return all(len(held) < 2 for held in holders) and set().union(*holders) == set(blocks)


def _trace_units(backbone: nn.Module, sizes: Sequence[Size], opened: frozenset[type[nn.Module]]) -> Unrolled:
    error: Exception | None = None
    for size, device in itertools.product(sizes, ('meta', 'cpu')):  # compiled operators may need data
        try:
            forward, values = trace(backbone, *copy_and_image(backbone, size, device), opened)
            unrolled = units_of(backbone, forward, values)
            pickle.dumps(unrolled)
            return unrolled
        except Exception as failed:
            error = error or failed
    assert error is not None
    raise error
