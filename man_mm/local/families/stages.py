"""What backbones of stages have in common: a stem, stages of blocks, and some of the stages' ends as outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..unroll import StageOutputs, Unit, Unrolled

__all__ = ['staged', 'unroll_stages']


def staged(stem: Unit, stages: Iterable[Sequence[Unit]], outputs: Sequence[int]) -> tuple[Unit, ...]:
    """The stem, then the units of every stage; a stage's end is a tap of the stage's name.

    Stages after the last output are left out: nothing could train them. The end of an earlier stage that is no output
    is a pooled tap.

    Args:
        stem: The first unit.
        stages: The units of each stage, which make maps (N, C, H, W).
        outputs: Indices of the stages whose ends the backbone returns, in some form.
    """
    units = [stem]
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
