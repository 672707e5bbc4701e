"""A slim SLM: of the rest of the backbone it keeps the strides, at a width of its own."""

import itertools
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from ..keys import count, strict_keys
from ..local import Activation, Auxiliary, Site, StageOutputs, layers_of
from ..registry import MODELS
from .layers import conv_norm_relu, reset_weights
from .necks import neck_that_reads

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

    hands_maps_on = True

    def __init__(
        self, site: Site, channels: int = 64, neck: Any = 'shared', head: Any = 'shared', **kwargs: Any
    ) -> None:
        count('auxiliary.channels', channels)
        _check_outputs(site)
        units, shapes = site.unrolled.units, site.shapes()
        outputs = {unit.tap: i for i, unit in enumerate(units) if unit.tap and not unit.pooled}
        widths = [shapes[i][0] if i < site.end else channels for i in outputs.values()]
        own_neck = neck_that_reads(neck, widths)
        if own_neck is None and (len(outputs) > 1 or head == 'shared'):
            wanted = 'a neck of its own: set auxiliary.neck' if len(outputs) > 1 else "auxiliary.head='private'"
            raise ValueError(f"auxiliary.type='man_mm.SlimSLM' makes maps of {channels} channels, which need {wanted}.")
        super().__init__(site, neck=own_neck or neck, head=head, **kwargs)
        self.outputs = tuple(outputs)
        self.channels = None if own_neck else channels
        self.reduce = nn.Conv2d(site.map_shape()[0], channels, 1)
        ends = [
            max(i for i, _ in members)
            for _, members in itertools.groupby(enumerate(units[site.end :], site.end), key=lambda item: item[1].stage)
        ]
        heights = [shapes[i][1] for i in (site.end - 1, *ends)]
        self.stages = nn.ModuleList(
            conv_norm_relu(channels, channels, 3, round(before / after))
            for before, after in itertools.pairwise(heights)
        )
        self.made = tuple(units[i].tap if not units[i].pooled else None for i in ends)

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, H, W) of every stage that the backbone returns. Its own carry the graph of `x`."""
        assert isinstance(x, Tensor)
        taps, maps = dict(taps), self.reduce(x)
        for layers, tap in zip(self.stages, self.made, strict=True):
            maps = layers(maps)
            if tap is not None:
                taps[tap] = maps
        return tuple(taps[name] for name in self.outputs)

    def head_width(self, in_channels: int) -> int:
        """See `Auxiliary.head_width`."""
        return self.channels or in_channels

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`."""
        return (*layers_of(self), self.made)

    def init_weights(self) -> None:
        """Draw all layers afresh; neck and heads follow their own configs."""
        super().init_weights()
        reset_weights(self.reduce)
        reset_weights(self.stages)


def _check_outputs(site: Site) -> None:
    if not isinstance(site.unrolled.finish, StageOutputs):
        raise ValueError(
            f"auxiliary.type='man_mm.SlimSLM' stands in for the maps of a backbone's stages, which "
            f'{type(site.net).__name__} does not return as they are: man_mm.SLM serves it.'
        )
