"""Masked autoencoders: the first unit leaves most patches out, and says which to all that follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..units import Unit, Unrolled
from ..unroll import register_unroll

__all__: list[str] = []

Masked = tuple[Tensor, Tensor, Tensor]
"""Tokens of the patches that are left (N, L, C), the mask of all (N, P), and where each is among them (N, P)."""


@register_unroll('mmpretrain.models.selfsup.mae.MAEViT')
def mae_vit(net: Any) -> Unrolled:
    """Patch embedding and masking, then the encoder layers, all of one stage."""
    tensors = ('pos_embed', 'cls_token')
    layers = [f'layers.{i}' for i in range(net.num_layers)]
    units = (
        Unit('embed', 'embed', ('patch_embed',), function=_mask, tensors=tensors),
        *(Unit(layer, 'layers', (layer,), function=_OnTokens((layer,))) for layer in layers),
    )
    return Unrolled(units, _Normed('ln1'), ('ln1',))


def _mask(net: Any, x: Tensor) -> Masked:
    """Images (N, 3, H, W) to tokens, the class token first, as the upstream forward begins."""
    x = net.patch_embed(x)[0] + net.pos_embed[:, 1:]
    x, mask, places = net.random_masking(x, net.mask_ratio)
    first = net.cls_token + net.pos_embed[:, :1]
    return torch.cat((first.expand(x.shape[0], -1, -1), x), dim=1), mask, places


@register_unroll('mmpretrain.models.selfsup.mae.MAEHiViT')
def mae_hivit(net: Any) -> Unrolled:
    """Patch embedding and masking, then the blocks. A stage begins where patches are merged, which its first unit does:
    their inner patches two by two, and before the last stage by leaving all but one of them out.
    """
    names = [f'blocks.{i}' for i in range(len(net.blocks))]
    main = len(names) - net.num_main_blocks
    units = [Unit('embed', 'embed', ('patch_embed',), function=_mask_inner, tensors=('pos_embed',))]
    stage = 0
    merges: tuple[str, ...] = ()
    for name, block in zip(names[:main], net.blocks, strict=False):
        if type(block).__name__ == 'PatchMerge':
            stage, merges = stage + 1, (name,)
        else:
            units.append(Unit(name, f'stage {stage}', (*merges, name), function=_OnTokens((*merges, name))))
            merges = ()
    first, *others = names[main:]
    flattened = _Flattened(merges, ('pos_drop', first))
    units.append(Unit(first, 'main', (*merges, 'pos_drop', first), function=flattened))
    units += [Unit(name, 'main', (name,), function=_OnTokens((name,))) for name in others]
    return Unrolled(tuple(units), _Normed())


def _mask_inner(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    """As `_mask`, of patches with inner ones (N, L, h, w, C), and their positions (N, L, C), added later."""
    kept, places, mask = net.masking_id(x.shape[0], net.mask_ratio)
    height, width = x.shape[2:]
    x = net.patch_embed(x)
    if net.ape:
        like = net.pos_embed[:, : kept.shape[1]]  # upstream asks for as many as are kept, and so interpolates
        position = net.interpolate_pos_encoding(like, height, width).expand(x.shape[0], -1, -1)
        position = position.gather(1, kept[:, :, None].expand(-1, -1, position.shape[2]))
    else:
        position = x.new_zeros(())
    x = x.gather(1, kept[:, :, None, None, None].expand(-1, -1, *x.shape[2:]))
    return x, mask, places, position


@dataclass(frozen=True)
class _OnTokens:
    """Applies layers to the tokens, and hands on what comes with them."""

    layers: tuple[str, ...]

    def __call__(self, net: nn.Module, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens, *others = x
        for layer in self.layers:
            tokens = net.get_submodule(layer)(tokens)
        return (tokens, *others)


@dataclass(frozen=True)
class _Flattened:
    """Of the inner patches one stays, and gets the position."""

    before: tuple[str, ...]
    after: tuple[str, ...]

    def __call__(self, net: nn.Module, x: tuple[Tensor, ...]) -> Masked:
        tokens, mask, places, position = _OnTokens(self.before)(net, x)
        tokens, mask, places = _OnTokens(self.after)(net, (tokens[..., 0, 0, :] + position, mask, places))
        return tokens, mask, places


@dataclass(frozen=True)
class _Normed:
    """`finish`: a norm of the tokens, if there is one."""

    norm: str | None = None

    def __call__(self, net: nn.Module, x: Masked, taps: Mapping[str, Tensor]) -> Masked:
        tokens, mask, places = x
        return tokens if self.norm is None else net.get_submodule(self.norm)(tokens), mask, places
