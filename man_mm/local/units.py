"""What a backbone is unrolled into: an ordered list of units, and what its forward does with them.

A description is data: the dotted paths of the layers that each unit applies, so it survives deepcopy, pickling and the
replacement of layers (SyncBN conversion), and the same unit runs on the backbone and on copied layers.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

__all__ = [
    'Activation',
    'Finish',
    'StageOutputs',
    'Unit',
    'Unrolled',
    'copy_layers',
    'detached',
    'run_units',
]

Activation = Tensor | tuple[Tensor, ...]
"""Passes between units: a tensor, or several, e.g. the branches of a backbone of many resolutions."""


def detached(x: Activation, requires_grad: bool = False) -> Activation:
    """The same values without a graph."""
    if isinstance(x, Tensor):
        return x.detach().requires_grad_(requires_grad)
    return tuple(branch.detach().requires_grad_(requires_grad and branch.is_floating_point()) for branch in x)


@dataclass(frozen=True)
class Unit:
    """The smallest piece of a backbone that a cut can follow: the stem or one residual block.

    Args:
        name: What tables and errors call it, e.g. `layer1.0`.
        stage: The stage it belongs to. Units of one stage are consecutive.
        layers: Dotted paths of the layers that it applies, one after the other.
        tap: Name of the activation that the rest of the model needs later, if the unit's output, a tensor, is one.
        pooled: The backbone does not return this tap: of its (N, C, H, W) the bank keeps the means (N, C), and keeps
            them only if an auxiliary reads them.
        function: What it does to `net` and `x`, if that is more than to apply its layers in turn; it must pickle. If it
            looks at more of `net` than `layers` and `tensors`, the unit runs on the backbone only: as a stage of its
            own, the first.
        tensors: Dotted paths of tensors outside of `layers` that `function` uses, e.g. a class token.
        copies_input: It runs on a copy of its input, because it changes that in place: others read the input, too.
    """

    name: str
    stage: str
    layers: tuple[str, ...]
    tap: str | None = None
    pooled: bool = False
    function: Callable[[nn.Module, Any], Activation] | None = None
    tensors: tuple[str, ...] = ()
    copies_input: bool = False

    def __call__(self, net: nn.Module, x: Activation) -> Activation:
        """Run the unit with the layers found in `net` (the backbone or copied layers) on `x`, e.g. (N, C, H, W)."""
        if self.copies_input:
            x = x.clone() if isinstance(x, Tensor) else tuple(branch.clone() for branch in x)
        if self.function is not None:
            return self.function(net, x)
        for path in self.layers:
            x = net.get_submodule(path)(x)
        return x

    def parameters(self, net: nn.Module) -> Iterator[nn.Parameter]:
        """Parameters of the unit, found in `net`."""
        for path in self.layers:
            yield from net.get_submodule(path).parameters()
        for path in self.tensors:
            if isinstance(tensor := attrgetter(path)(net), nn.Parameter):
                yield tensor


def run_units(units: Iterable[Unit], net: nn.Module, x: Activation) -> tuple[Activation, dict[str, Tensor]]:
    """Run `units`, found in `net`, on `x`; return the output and the taps that they made. All carry the graph."""
    taps: dict[str, Tensor] = {}
    for unit in units:
        x = unit(net, x)
        if unit.tap is not None:
            assert isinstance(x, Tensor), f'{unit.name} ends a tap, so it must make one tensor'
            taps[unit.tap] = x
    return x, taps


Finish = Callable[[nn.Module, Any, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class StageOutputs:
    """`finish` of a backbone that returns its taps, in order, as they are."""

    taps: tuple[str, ...]

    def __call__(self, net: nn.Module, x: Activation, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(taps[name] for name in self.taps)


@dataclass(frozen=True)
class Unrolled:
    """A backbone's forward: all units in order, then `finish`.

    Args:
        units: The units in the order of the forward.
        finish: `finish(net, x, taps)` turns the last unit's output and the taps into what the backbone returns.
        tail: Dotted paths of the layers that `finish` itself applies, if any.
    """

    units: tuple[Unit, ...]
    finish: Finish
    tail: tuple[str, ...] = ()

    def finish_in_parts(self, net: nn.Module, x: Activation, taps: Mapping[str, Tensor], num_parts: int) -> Any:
        """As `finish`, on parts of the batch one after the other, and once more in backward: only one part's
        activations are ever alive. 1 part is the whole batch, kept.
        """
        if num_parts == 1:
            return self.finish(net, x, taps)
        if not isinstance(x, Tensor):
            raise ValueError(
                f'tail_chunks={num_parts} cuts one tensor along the batch, but the last unit of '
                f'{type(net).__name__} makes {len(x)}: leave it out.'
            )

        def finish_part(part: Tensor, *part_of_taps: Tensor) -> Any:
            return self.finish(net, part, dict(zip(taps, part_of_taps, strict=True)))

        parts = zip(x.chunk(num_parts), *(tap.chunk(num_parts) for tap in taps.values()), strict=True)
        results = [checkpoint(finish_part, *part, use_reentrant=False) for part in parts]
        leaves, (kind, *_) = zip(*map(tree_flatten, results), strict=True)
        return tree_unflatten([torch.cat(pieces) for pieces in zip(*leaves, strict=True)], kind)

    def first_of_remaining_stages(self, end: int, num_units: int = 1, cut_stage: bool = True) -> tuple[Unit, ...]:
        """The first `num_units` units of every stage that has units from `end` on (paper, Eq. 4, where it is n_s).

        The last one chosen of a stage stands for the stage, so it has the stage's tap.

        Args:
            end: Index of the first unit after the cut.
            num_units: n_s.
            cut_stage: Whether a stage of which `end` cuts off a part counts as remaining.
        """
        chosen: list[Unit] = []
        for stage, members in itertools.groupby(self.units[end:], key=lambda unit: unit.stage):
            if not cut_stage and stage == self.units[end - 1].stage:
                continue
            first = [replace(unit, tap=None) for unit in itertools.islice(members, num_units)]
            tap = next((unit.tap for unit in self.units if unit.stage == stage and unit.tap is not None), None)
            chosen += [*first[:-1], *(replace(unit, tap=tap) for unit in first[-1:])]
        return tuple(chosen)


def copy_layers(net: nn.Module, paths: Iterable[str], tensors: Iterable[str] = ()) -> nn.Module:
    """Return a bare module that holds own copies of `net`'s layers, and of its own tensors, under the same paths."""
    copies = nn.Module()
    for path in paths:
        holder, leaf = _holder(copies, path)
        holder.add_module(leaf, copy.deepcopy(net.get_submodule(path)))
    for path in tensors:
        holder, leaf = _holder(copies, path)
        tensor = attrgetter(path)(net)
        own = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            holder.register_parameter(leaf, nn.Parameter(own, tensor.requires_grad))
        else:
            holder.register_buffer(leaf, own, persistent=False)
    return copies


def _holder(copies: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module below which `path` ends, made where it is missing, and the last part of `path`."""
    *parents, leaf = path.split('.')
    for parent in parents:
        if parent not in copies._modules:
            copies.add_module(parent, nn.Module())
        copies = copies.get_submodule(parent)
    return copies, leaf
