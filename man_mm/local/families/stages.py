"""Backbones of stages: a stem, stages of blocks, and some of the stages' ends as outputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..units import StageOutputs, Unit, Unrolled

__all__ = ['staged', 'unroll_normed_stages', 'unroll_stages']


def staged(stem: Unit | None, stages: Iterable[Sequence[Unit]], outputs: Sequence[int]) -> tuple[Unit, ...]:
    """The stem, then the units of every stage; a stage's end is a tap of the stage's name.

    Stages after the last output are left out: nothing could train them. The end of an earlier stage that is no output
    is a pooled tap.

    Args:
        stem: The first unit; None where it belongs to the first stage.
        stages: The units of each stage, which make maps (N, C, H, W).
        outputs: Indices of the stages whose ends the backbone returns, in some form.
    """
    units = [] if stem is None else [stem]
    for index, (*inner, last) in enumerate(stages):
        if index <= max(outputs):
            units += [*inner, replace(last, tap=last.stage, pooled=index not in outputs)]
    return tuple(units)


def unroll_stages(net: Any, stem: tuple[str, ...], names: Sequence[str]) -> Unrolled:
    """The layers of the stem, then the stages `names`, one after the other; it returns those in `net.out_indices`.

    Args:
        net: The backbone.
        stem: Dotted paths of the stem's layers.
        names: Dotted paths of the stages: a `Sequential` has a unit for each of its blocks, any other layer is a unit.
    """
    stages = [[Unit(path, name, (path,)) for path in _blocks(net, name)] for name in names]
    outputs = tuple(names[index] for index in sorted(net.out_indices))
    return Unrolled(staged(Unit('stem', 'stem', stem), stages, net.out_indices), StageOutputs(outputs))


def _blocks(net: nn.Module, name: str) -> list[str]:
    stage = net.get_submodule(name)
    return [f'{name}.{i}' for i in range(len(stage))] if isinstance(stage, nn.Sequential) else [name]


def unroll_normed_stages(
    net: Any,
    stem: Unit,
    stages: Iterable[Sequence[Unit]],
    normed: Callable[[nn.Module, Tensor], Tensor],
    container: type[list] | type[tuple] = tuple,
) -> Unrolled:
    """As `staged`, for a backbone whose stages are `stages.{i}` and whose outputs have a norm each, `norm{i}`.

    Args:
        net: The backbone; it returns the stages in `net.out_indices`.
        stem: See `staged`.
        stages: See `staged`.
        normed: What it returns of a norm and of a map (N, C, H, W); it must pickle.
        container: What it returns them in.
    """
    outputs = sorted(net.out_indices)
    norms = tuple(f'norm{i}' for i in outputs)
    finish = _NormedOutputs(tuple(f'stages.{i}' for i in outputs), norms, normed, container)
    return Unrolled(staged(stem, stages, outputs), finish, norms)


@dataclass(frozen=True)
class _NormedOutputs:
    """`finish` of a backbone that returns each of its taps through a norm of its own; see `unroll_normed_stages`."""

    taps: tuple[str, ...]
    norms: tuple[str, ...]
    normed: Callable[[nn.Module, Tensor], Tensor]
    container: type[list] | type[tuple]

    def __call__(self, net: nn.Module, x: Tensor, taps: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return self.container(
            self.normed(net.get_submodule(norm), taps[tap]) for tap, norm in zip(self.taps, self.norms, strict=True)
        )
