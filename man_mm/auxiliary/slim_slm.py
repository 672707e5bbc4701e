"""A slim SLM: of the rest of the backbone it keeps the strides, at a width of its own."""

import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..keys import count, strict_keys
from ..local import Place
from ..registry import MODELS
from .base import Auxiliary
from .layers import conv_norm_relu, reset_weights
from .widths import neck_that_reads

__all__ = ['SlimSLM']


@MODELS.register_module()
@strict_keys
class SlimSLM(Auxiliary):
    """A 1x1 convolution to a small width, then one 3x3 convolution for every stage that remains after the cut.

    MAN, lean: as `SLM` does, it takes the outputs of earlier stages from the feature bank and makes those of later ones
    itself, but in layers that cost a fraction of the backbone's weights and activations. Each convolution is followed
    by batch norm and ReLU. Necks and heads of its own may be as slim.

    Args:
        channels: Width of its maps. A neck of its own is built to read it, as is a head of its own where no neck of the
            auxiliary's stands before it.
        kwargs: See `Auxiliary`. The model's own neck cannot read several maps of another width, nor its head one.

    Raises:
        ValueError: If `channels` is no width, the backbone does not return the maps of its stages as they are, or what
            reads its maps is the model's.
    """

    def __init__(
        self, place: Place, channels: int = 64, neck: Any = 'shared', head: Any = 'shared', **kwargs: Any
    ) -> None:
        count('auxiliary.channels', channels)
        _check_outputs(place)
        units, shapes = place.unrolled.units, place.shapes()
        outputs = {unit.tap: i for i, unit in enumerate(units) if unit.tap and not unit.pooled}
        widths = [shapes[i][0] if i < place.end else channels for i in outputs.values()]
        own_neck = neck_that_reads(neck, widths)
        if own_neck is None and (len(outputs) > 1 or head == 'shared'):
            wanted = 'a neck of its own: set auxiliary.neck' if len(outputs) > 1 else "auxiliary.head='private'"
            raise ValueError(f"auxiliary.type='man_mm.SlimSLM' makes maps of {channels} channels, which need {wanted}.")
        super().__init__(place, neck=own_neck or neck, head=head, **kwargs)
        self.outputs = tuple(outputs)
        self.channels = None if own_neck else channels
        self.reduce = nn.Conv2d(place.map_shape('SlimSLM')[0], channels, 1)
        ends = [
            max(i for i, _ in members)
            for _, members in itertools.groupby(
                enumerate(units[place.end :], place.end), key=lambda item: item[1].stage
            )
        ]
        heights = [shapes[i][1] for i in (place.end - 1, *ends)]
        self.stages = nn.ModuleList(
            conv_norm_relu(channels, channels, 3, round(before / after))
            for before, after in itertools.pairwise(heights)
        )
        self.made = tuple(units[i].tap if not units[i].pooled else None for i in ends)

    def forward(self, x: Tensor, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, H, W) of every stage that the backbone returns. Its own carry the graph of `x`."""
        taps = dict(taps)
        x = self.reduce(x)
        for layers, tap in zip(self.stages, self.made, strict=True):
            x = layers(x)
            if tap is not None:
                taps[tap] = x
        return tuple(taps[name] for name in self.outputs)

    def head_width(self, in_channels: int) -> int:
        """See `Auxiliary.head_width`."""
        return self.channels or in_channels

    def signature(self) -> tuple[Any, ...]:
        """See `Auxiliary.signature`."""
        return (*super().signature(), self.made)

    def init_weights(self) -> None:
        """Draw all layers afresh; neck and heads follow their own configs."""
        super().init_weights()
        reset_weights(self.reduce)
        reset_weights(self.stages)


def _check_outputs(place: Place) -> None:
    last = place.unrolled.units[-1]
    if place.unrolled.tail or last.tap is None or last.pooled:
        raise ValueError(
            f"auxiliary.type='man_mm.SlimSLM' stands in for the maps of a backbone's stages, which "
            f'{type(place.net).__name__} does not return as they are: man_mm.SLM serves it.'
        )
