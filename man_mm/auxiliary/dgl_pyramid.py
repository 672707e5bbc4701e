"""DGL for models that read maps at several scales: a pyramid made of the module's output alone."""

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import count, strict_keys, switch
from ..local import Activation, Auxiliary, Site, layers_of
from ..registry import MODELS
from .layers import reset_weights
from .necks import neck_that_reads

__all__ = ['DGLPyramid']


@MODELS.register_module()
@strict_keys
class DGLPyramid(Auxiliary):
    """Stands in for the backbone's maps by resampling the module's output: DGL carried over to detection.

    A 1x1 convolution, then for every output of the backbone bilinear up-sampling to its stride, or 3x3 convolutions of
    stride 2 down to it. The paper says no more of its DGL detector than that its FPN is built "through upsampling and
    other transformations" (section 5.2, results on COCO).

    Args:
        channels: Width of the maps. A neck of its own is built to read it; for the model's neck, or where there is
            none, further 1x1 convolutions make the widths of the backbone's maps; those of maps that the model does
            not read stay as they were drawn.
        banked_levels: Take the maps of stages that end up to the cut as they are, earlier ones detached from the
            feature bank: MAN's bank without its SLM. With False, the rule itself, these too are made of the module's
            output.
        head: See `Auxiliary`; private by default, as every part of a DGL module.
        kwargs: See `Auxiliary`.

    Raises:
        ValueError: If the backbone does not return the maps of its stages, or their strides are not powers of two
            apart.
    """

    hands_maps_on = True

    def __init__(
        self,
        site: Site,
        neck: dict[str, Any] | list[dict[str, Any]] | str = 'shared',
        head: dict[str, Any] | str = 'private',
        channels: int = 256,
        banked_levels: bool = False,
        **kwargs: Any,
    ) -> None:
        count('auxiliary.channels', channels)
        levels, known = _levels(site), set()
        if switch('auxiliary.banked_levels', banked_levels):
            known = {unit.tap for unit in site.unrolled.units[: site.end]}
        widths = {name: shape[0] if name in known else channels for name, shape in levels.items()}
        if known and site.unrolled.tail:
            raise ValueError(
                f"auxiliary.banked_levels=True: {type(site.net).__name__} returns its stages' maps through "
                f'{list(site.unrolled.tail)}, which the feature bank does not hold.'
            )
        own_neck = neck_that_reads(neck, list(widths.values()))
        super().__init__(site, neck=own_neck or neck, head=head, **kwargs)
        self.reads_taps = banked_levels
        self.levels = tuple(levels)
        self.steps = {name: _halvings(site, name, shape) for name, shape in levels.items() if name not in known}
        self.reduce = nn.Conv2d(site.map_shape()[0], channels, 1)
        self.halve = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(max(0, *self.steps.values())))
        self.unread = tuple(levels)[: _start_level(own_neck)]
        self.widen = nn.ModuleList(
            nn.Identity() if own_neck or name in known else nn.Conv2d(channels, shape[0], 1)
            for name, shape in levels.items()
        )

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Maps (N, C, H, W) of every stride that the backbone returns. Self-made ones carry the graph of `x`."""
        assert isinstance(x, Tensor)
        halved = [self.reduce(x)]
        for conv in self.halve:
            halved.append(conv(F.relu(halved[-1])))
        return tuple(
            widen(self._level(halved, name)) if name in self.steps else taps[name]
            for name, widen in zip(self.levels, self.widen, strict=True)
        )

    def _level(self, halved: list[Tensor], name: str) -> Tensor:
        """A self-made map; one that the neck passes over is not resized, which would only cost memory."""
        return halved[0] if name in self.unread else _resized(halved, self.steps[name])

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`."""
        return (*layers_of(self), self.reads_taps, *self.steps.items())

    def init_weights(self) -> None:
        """Draw all layers afresh; neck and heads follow their own configs."""
        super().init_weights()
        for layers in (self.reduce, self.halve, self.widen):
            reset_weights(layers)


def _levels(site: Site) -> dict[str, tuple[int, ...]]:
    """Shape (C, H, W) of every map that the backbone returns."""
    units = site.unrolled.units
    if units[-1].tap is None or units[-1].pooled:
        raise ValueError(
            f"auxiliary.type='man_mm.DGLPyramid' stands in for the maps of a backbone's stages, which "
            f'{type(site.net).__name__} does not return.'
        )
    return {unit.tap: site.shapes()[i] for i, unit in enumerate(units) if unit.tap and not unit.pooled}


def _halvings(site: Site, name: str, shape: tuple[int, ...]) -> int:
    """How often the module's output is halved to the size of a level; below 0, how often it is doubled."""
    own, other = site.map_shape()[1], shape[1]
    larger, smaller, steps = max(own, other), min(own, other), 0
    while larger > smaller:
        larger, steps = -(-larger // 2), steps + 1
    if larger != smaller:
        raise ValueError(
            f"auxiliary.type='man_mm.DGLPyramid' halves or doubles the output of {site.name}, which does not lead to "
            f'the size of {name}: of an image of model.backbone.probe_size, they are {own} and {other} px high.'
        )
    return steps if own > other else -steps


def _start_level(neck: Any) -> int:
    """Maps at the front that a neck does not read."""
    first = neck[0] if isinstance(neck, list) else neck
    return first.get('start_level', 0) if first else 0


def _resized(halved: list[Tensor], steps: int) -> Tensor:
    """The map halved `steps` times, or the full one doubled -`steps` times."""
    if steps >= 0:
        return halved[steps]
    return F.interpolate(halved[0], scale_factor=2**-steps, mode='bilinear', align_corners=False)
