"""ConvNeXt: patches, then stages of blocks, each behind a downsampling layer; every output has a norm of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..unroll import Unit, Unrolled, register_unroll
from .stages import staged

__all__: list[str] = []


@register_unroll('mmpretrain.models.backbones.convnext.ConvNeXt')
def convnext(net: Any) -> Unrolled:
    """The patches, then the blocks; the first one of a stage brings the downsampling layer that leads to the stage."""
    stages = [[_block(stage, i) for i in range(len(blocks))] for stage, blocks in enumerate(net.stages)]
    outputs = sorted(net.out_indices)
    finish = _NormedMaps(
        taps=tuple(f'stages.{i}' for i in outputs),
        norms=tuple(f'norm{i}' for i in outputs),
        pool=net.gap_before_final_norm,
    )
    return Unrolled(staged(Unit('stem', 'stem', ('downsample_layers.0',)), stages, outputs), finish, finish.norms)


def _block(stage: int, index: int) -> Unit:
    name = f'stages.{stage}.{index}'
    downsample = (f'downsample_layers.{stage}',) if stage > 0 and index == 0 else ()
    return Unit(name, f'stages.{stage}', (*downsample, name))


@dataclass(frozen=True)
class _NormedMaps:
    """`finish` of a ConvNeXt: the norm of each output on its map (N, C, H, W), or on the map's mean (N, C).

    Args:
        taps: The outputs, in order.
        norms: The norm of each.
        pool: Whether it is the mean.
    """

    taps: tuple[str, ...]
    norms: tuple[str, ...]
    pool: bool

    def __call__(self, net: nn.Module, x: Tensor, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            self._output(net.get_submodule(norm), taps[tap]) for tap, norm in zip(self.taps, self.norms, strict=True)
        )

    def _output(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x.mean((-2, -1), keepdim=True)).flatten(1) if self.pool else norm(x)
