"""Swin transformers: patch embedding, then stages of blocks, patches merged between; every output has its own norm."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..tokens import to_map, to_tokens
from ..units import Unit, Unrolled
from ..unroll import register_unroll
from .stages import unroll_normed_stages

__all__: list[str] = []


@register_unroll('mmdet.models.backbones.swin.SwinTransformer', 'mmseg.models.backbones.swin.SwinTransformer')
def swin(net: Any) -> Unrolled:
    return _unroll(net, list)


@register_unroll('mmpose.models.backbones.swin.SwinTransformer')
def swin_of_poses(net: Any) -> Unrolled:
    return _unroll(net, tuple)


@register_unroll('mmpretrain.models.backbones.swin_transformer.SwinTransformer')
def swin_of_classifiers(net: Any) -> Unrolled:
    """As mmdet's, but for two options.

    Raises:
        ValueError: For outputs after the merging of patches, and for absolute position embeddings.
    """
    if net.out_after_downsample or net.use_abs_pos_embed:
        raise ValueError(
            f'backbone: SwinTransformer with out_after_downsample={net.out_after_downsample}, '
            f'use_abs_pos_embed={net.use_abs_pos_embed} cannot be unrolled: known is the one with both False.'
        )
    return _unroll(net, tuple)


def _unroll(net: Any, container: type[list] | type[tuple]) -> Unrolled:
    """The embedding, then the blocks; the first one of a stage brings the merging of patches that leads to the stage.

    Units pass maps (N, C, H, W), which are views of upstream's tokens.
    """
    tensors = ('absolute_pos_embed',) if net.use_abs_pos_embed else ()
    embed = Unit('embed', 'embed', ('patch_embed', 'drop_after_pos'), function=_embed, tensors=tensors)
    stages = [[_block(i, j) for j in range(len(stage.blocks))] for i, stage in enumerate(net.stages)]
    return unroll_normed_stages(net, embed, stages, _norm_of_tokens, container)


def _block(stage: int, index: int) -> Unit:
    name = f'stages.{stage}.blocks.{index}'
    merging = f'stages.{stage - 1}.downsample' if stage > 0 and index == 0 else None
    layers = (name,) if merging is None else (merging, name)
    return Unit(name, f'stages.{stage}', layers, function=_Block(name, merging))


def _embed(net: Any, x: Tensor) -> Tensor:
    tokens, size = net.patch_embed(x)
    if net.use_abs_pos_embed:
        tokens = tokens + net.absolute_pos_embed
    return to_map(net.drop_after_pos(tokens), size)


@dataclass(frozen=True)
class _Block:
    """A block on a map, after the layer that merges patches if there is one: both read tokens and the map's size."""

    block: str
    merging: str | None

    def __call__(self, net: nn.Module, x: Tensor) -> Tensor:
        tokens, size = to_tokens(x), tuple(x.shape[2:])
        if self.merging is not None:
            tokens, size = net.get_submodule(self.merging)(tokens, size)
        return to_map(net.get_submodule(self.block)(tokens, size), size)


def _norm_of_tokens(norm: nn.Module, x: Tensor) -> Tensor:
    """The norm of the map's tokens, as a map (N, C, H, W)."""
    return to_map(norm(to_tokens(x)), x.shape[2:]).contiguous()
