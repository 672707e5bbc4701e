"""Where an auxiliary network stands: behind which module of which backbone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .partition import Partition
from .probe import probe
from .unroll import Unrolled

__all__ = ['Place', 'unit_shapes']


@dataclass(frozen=True)
class Place:
    """What an auxiliary network may look at while it is built. Nothing of it is kept by the model.

    Args:
        net: The wrapped backbone.
        unrolled: Its description.
        partition: How it is cut.
        module: Index of the module that the auxiliary trains, from 0.
        shapes: Returns the shape of every unit's output for one image: (C, H, W), or (L, C) for L tokens.
    """

    net: nn.Module
    unrolled: Unrolled
    partition: Partition
    module: int
    shapes: Callable[[], list[tuple[int, ...]]]

    @property
    def start(self) -> int:
        """Index of the module's first unit."""
        return self.partition.span(self.module)[0]

    @property
    def end(self) -> int:
        """Index of the first unit behind the module."""
        return self.partition.span(self.module)[1]

    @property
    def stage(self) -> str:
        """The stage in which the module ends."""
        return self.unrolled.units[self.end - 1].stage

    @property
    def name(self) -> str:
        """The module's name for error messages."""
        return self.partition.name(self.module)

    def map_shape(self, rule: str) -> tuple[int, int, int]:
        """(C, H, W) of the module's output.

        Raises:
            ValueError: If it is no feature map, as `rule` needs.
        """
        shape = self.shapes()[self.end - 1]
        if len(shape) != 3:
            raise ValueError(
                f"auxiliary.type='man_mm.{rule}' reads feature maps (C, H, W), but the output of {self.name} has the "
                f'shape {shape} for an image. man_mm.SLM and man_mm.AugLocal serve such a backbone.'
            )
        return shape


def unit_shapes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shape of every unit's output, without the batch, for an image of `size` (height, width in px)."""
    try:
        return _shapes(*probe(net, size, 'meta'), unrolled)
    except RuntimeError:  # compiled operators, e.g. mmcv's deformable convolution, may know no device without data
        return _shapes(*probe(net, size, 'cpu'), unrolled)


def _shapes(net: nn.Module, x: Tensor, unrolled: Unrolled) -> list[tuple[int, ...]]:
    shapes = []
    with torch.no_grad():
        for unit in unrolled.units:
            x = unit(net, x)
            shapes.append(tuple(x.shape[1:]))
    return shapes
