"""Vision transformers: patch embedding, then encoder layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..units import Unit, Unrolled
from ..unroll import register_unroll

__all__: list[str] = []


@register_unroll('mmpretrain.models.backbones.vision_transformer.VisionTransformer')
def vision_transformer(net: Any) -> Unrolled:
    """Patch embedding, then the encoder layers; a stage ends at every layer in `net.out_indices`, and so does a tap."""
    tensors = ('pos_embed', *(['cls_token'] if net.cls_token is not None else []))
    outputs = tuple(sorted(net.out_indices))
    units = [Unit('embed', 'embed', ('patch_embed', 'pre_norm'), function=_embed, tensors=tensors)]
    for i in range(outputs[-1] + 1):
        stage = f'layers to {next(end for end in outputs if end >= i)}'
        units.append(Unit(f'layers.{i}', stage, (f'layers.{i}',), f'layers.{i}' if i in outputs[:-1] else None))
    has_norm = net.final_norm and outputs[-1] == net.num_layers - 1
    finish = _TokenOutputs(
        taps=tuple(f'layers.{i}' for i in outputs[:-1]),
        norm='ln1' if has_norm else None,
        out_type=net.out_type,
        num_extra_tokens=net.num_extra_tokens,
        grid=tuple(net.patch_resolution),
    )
    tail = (*(['ln1'] if has_norm else []), *(['ln2'] if net.out_type == 'avg_featmap' else []))
    return Unrolled(tuple(units), finish, tail)


def _embed(net: Any, x: Tensor) -> Tensor:
    """Images (N, 3, H, W) to tokens (N, L, C), class token first, as the upstream forward begins."""
    x, grid = net.patch_embed(x)
    if net.cls_token is not None:
        x = torch.cat((net.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
    position = net.resize_pos_embed(
        net.pos_embed,
        net.patch_resolution,
        grid,
        mode=net.interpolate_mode,
        num_extra_tokens=net.num_extra_tokens,
    )
    return net.pre_norm(net.drop_after_pos(x + position))


@dataclass(frozen=True)
class _TokenOutputs:
    """`finish` of a vision transformer: tokens to what `out_type` asks for."""

    taps: tuple[str, ...]
    norm: str | None
    out_type: str
    num_extra_tokens: int
    grid: tuple[int, ...]

    def __call__(self, net: nn.Module, x: Tensor, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        if self.norm is not None:
            x = net.get_submodule(self.norm)(x)
        return tuple(self._format(net, tokens) for tokens in (*(taps[name] for name in self.taps), x))

    def _format(self, net: nn.Module, tokens: Tensor) -> Tensor:
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        patches = tokens[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return net.get_submodule('ln2')(patches.mean(dim=1))
        if patches.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"backbone.out_type='featmap' was set up for {self.grid} patches, but an image has {patches.shape[1]}: "
                'set backbone.img_size to the size of the training images.'
            )
        return patches.unflatten(1, self.grid).permute(0, 3, 1, 2)
