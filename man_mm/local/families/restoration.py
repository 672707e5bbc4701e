"""Networks that make an image: first features, a body of residual units, and a tail that adds the first features again.

What `finish` adds, EDSR's long skip, lies before every cut, so it is what the feature bank holds (paper, section 4.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tokens import to_map, to_tokens
from ..units import Unit, Unrolled
from ..unroll import register_unroll

__all__: list[str] = []

FIRST = 'conv_first'
IMAGES = 'images'
DOUBLE = 'double'
"""A step without a layer: height and width doubled, to the nearest pixel."""


@register_unroll('mmagic.models.editors.edsr.edsr_net.EDSRNet')
def edsr(net: Any) -> Unrolled:
    """The first convolution, whose output is the tap, then one unit per residual block."""
    body = [Unit(f'body.{i}', 'body', (f'body.{i}',)) for i in range(len(net.body))]
    finish = _Image(mean=_numbers(net.mean), std=_numbers(net.std), steps=('upsample', 'conv_last'))
    return Unrolled((_first(_edsr_stem), *body), finish, ('conv_after_body', *finish.steps))


@register_unroll('mmagic.models.editors.swinir.swinir_net.SwinIRNet')
def swinir(net: Any) -> Unrolled:
    """The first convolution, whose output is a tap, then one unit per residual Swin transformer block (RSTB).

    A network that only cleans images adds what it makes to them: they are a tap, too, and a unit of their own.

    Raises:
        ValueError: For absolute position embeddings.
    """
    if net.ape:
        raise ValueError(
            f'backbone: SwinIRNet with ape={net.ape!r} cannot be unrolled: absolute position embeddings fit images of '
            'one size. Set ape=False.'
        )
    mean = _numbers(net.mean)
    if net.upsampler == 'nearest+conv':
        convs = [f'conv_up{i}' for i in (1, 2) if hasattr(net, f'conv_up{i}')]
        doubled = [step for conv in convs for step in (DOUBLE, conv, 'lrelu')]
        steps = ('conv_before_upsample', *doubled, 'conv_hr', 'lrelu', 'conv_last')
    else:
        steps = tuple(name for name in ('conv_before_upsample', 'upsample', 'conv_last') if hasattr(net, name))
    is_residual = not net.upsampler
    finish = _Image(mean, (1.0,) * len(mean), steps, 'norm', float(net.img_range), is_residual)
    stem = (Unit(IMAGES, IMAGES, (), tap=IMAGES, function=_swinir_images), Unit(FIRST, FIRST, (FIRST,), tap=FIRST))
    body = [_swinir_unit(i) for i in range(len(net.layers))]
    tail = dict.fromkeys(['norm', 'conv_after_body', *steps])
    tail.pop(DOUBLE, None)
    return Unrolled((*(stem if is_residual else (_first(_swinir_stem),)), *body), finish, tuple(tail))


def _first(function: Any) -> Unit:
    return Unit(FIRST, FIRST, (FIRST,), tap=FIRST, function=function)


def _swinir_unit(index: int) -> Unit:
    """The first block also turns the map into normalised tokens."""
    layer = f'layers.{index}'
    embed = ('patch_embed', 'pos_drop') if index == 0 else ()
    return Unit(layer, 'layers', (*embed, layer), function=_OnTokens(embed, layer))


def _edsr_stem(net: Any, x: Tensor) -> Tensor:
    return net.conv_first((x - net.mean.to(x)) / net.std.to(x))


def _swinir_stem(net: Any, x: Tensor) -> Tensor:
    return net.conv_first(_swinir_images(net, x))


def _swinir_images(net: Any, x: Tensor) -> Tensor:
    if any(size % net.window_size for size in x.shape[2:]):
        raise ValueError(
            f'images of {x.shape[2]} x {x.shape[3]} px do not divide into the windows of SwinIRNet '
            f'(backbone.window_size={net.window_size}): local learning needs training patches, and a probe_size, that '
            'are multiples.'
        )
    return (x - net.mean.to(x)) * net.img_range


@dataclass(frozen=True)
class _OnTokens:
    """A transformer block on a map (N, C, H, W): what it does to tokens (N, L, C), with the map's size."""

    embed: tuple[str, ...]
    layer: str

    def __call__(self, net: nn.Module, x: Tensor) -> Tensor:
        size = x.shape[2:]
        tokens = x if self.embed else to_tokens(x)
        for path in self.embed:
            tokens = net.get_submodule(path)(tokens)
        return to_map(net.get_submodule(self.layer)(tokens, tuple(size)), size)


@dataclass(frozen=True)
class _Image:
    """`finish` of a network that returns an image: add the first features, upsample, undo the stem's normalisation.

    Args:
        mean: Of the images' channels, which the stem subtracts.
        std: What the stem divides by.
        steps: Layers after the long skip, in order, and `DOUBLE`.
        norm: A norm of tokens before `conv_after_body`, if there is one.
        img_range: What the stem multiplies by.
        is_residual: Whether what the steps make is added to the images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: tuple[str, ...]
    norm: str | None = None
    img_range: float = 1.0
    is_residual: bool = False

    def __call__(self, net: nn.Module, x: Tensor, taps: Mapping[str, Tensor]) -> Tensor:
        if self.norm is not None:
            x = to_map(net.get_submodule(self.norm)(to_tokens(x)), x.shape[2:])
        x = net.get_submodule('conv_after_body')(x) + taps[FIRST]
        for path in self.steps:
            x = F.interpolate(x, scale_factor=2, mode='nearest') if path == DOUBLE else net.get_submodule(path)(x)
        if self.is_residual:
            x = taps[IMAGES] + x
        # in the precision of the weights, as upstream: under autocast x has a lower one
        like = next(net.parameters())
        return x / self.img_range * _constant(self.std, like.dtype, x.device) + _constant(
            self.mean, like.dtype, x.device
        )


@cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A value for each channel (1, C, 1, 1), made once: a copy to a GPU would wait for it in every module.

    A plain tensor, whoever asks first: one of `torch.inference_mode` cannot be trained with.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.flatten().tolist())
