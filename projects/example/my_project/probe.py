"""An auxiliary of your own: what trains a module."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from man_mm.keys import strict_keys
from man_mm.local import Auxiliary, Site

__all__ = ['MeanProbe']


@MODELS.register_module()
@strict_keys
class MeanProbe(Auxiliary):
    """A linear layer from the mean of the module's output to the vector that the model's head reads.

    Args:
        site: The module that it trains.
        kwargs: See `Auxiliary`.
    """

    def __init__(self, site: Site, **kwargs: Any) -> None:
        super().__init__(site, **kwargs)
        self.project = nn.Linear(site.map_shape()[0], site.shapes()[-1][0])

    def forward(self, x: Tensor, taps: Mapping[str, Tensor]) -> Tensor:
        """(N, C) for the module's output `x` (N, C', H, W)."""
        return self.project(x.mean((2, 3)))
