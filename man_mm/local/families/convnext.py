"""ConvNeXt: patches, then stages of blocks, each after a downsampling layer; every output has a norm of its own."""

from typing import Any

from torch import Tensor, nn

from ..units import Unit, Unrolled
from ..unroll import register_unroll
from .stages import unroll_normed_stages

__all__: list[str] = []


@register_unroll('mmpretrain.models.backbones.convnext.ConvNeXt')
def convnext(net: Any) -> Unrolled:
    """The patches, then the blocks; the first one of a stage brings the downsampling layer that leads to the stage."""
    stages = [[_block(stage, i) for i in range(len(blocks))] for stage, blocks in enumerate(net.stages)]
    normed = _norm_of_mean if net.gap_before_final_norm else _norm_of_map
    return unroll_normed_stages(net, Unit('stem', 'stem', ('downsample_layers.0',)), stages, normed)


def _block(stage: int, index: int) -> Unit:
    name = f'stages.{stage}.{index}'
    downsample = (f'downsample_layers.{stage}',) if stage > 0 and index == 0 else ()
    return Unit(name, f'stages.{stage}', (*downsample, name))


def _norm_of_map(norm: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W)."""
    return norm(x)


def _norm_of_mean(norm: nn.Module, x: Tensor) -> Tensor:
    """The norm of the map's mean, (N, C)."""
    return norm(x.mean((-2, -1), keepdim=True)).flatten(1)
