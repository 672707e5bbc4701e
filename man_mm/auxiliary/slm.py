"""SLM, the Simple Local Module: a downsized rest of the same backbone (paper, section 3.2 and Eq. 4)."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import initialize
from torch import Tensor, nn

from ..local import Unrolled, copy_layers
from ..registry import MODELS, strict_keys
from .base import Auxiliary

__all__ = ['SLM']


@MODELS.register_module()
@strict_keys
class SLM(Auxiliary):
    """One unit for every stage that remains after the cut, then the backbone's own `finish`.

    The unit of a stage is the first one behind the cut, with parameters of its own; its output stands for the stage's
    tap. Taps before the cut come from the feature bank.

    Args:
        init: `copy` starts from the weights of the mirrored units, also after a plain checkpoint is loaded;
            `random` from a fresh Kaiming initialisation.
        kwargs: See `Auxiliary`.

    Raises:
        ValueError: If `init` is neither.
    """

    def __init__(self, net: nn.Module, unrolled: Unrolled, end: int, init: str = 'copy', **kwargs: Any) -> None:
        super().__init__(net, unrolled, end, **kwargs)
        if init not in ('copy', 'random'):
            raise ValueError(f"auxiliary.init={init!r} must be 'copy' or 'random'.")
        self.init = init
        self.units = unrolled.first_of_remaining_stages(end)
        self.finish = unrolled.finish
        self.paths = (*(path for unit in self.units for path in unit.layers), *unrolled.tail)
        self.layers = copy_layers(net, self.paths)

    def forward(self, x: Tensor, taps: Mapping[str, Tensor]) -> Any:
        """See `Auxiliary.forward`. The result carries the graph wherever `x` or a tap does."""
        taps = dict(taps)
        for unit in self.units:
            x = unit(self.layers, x)
            if unit.tap is not None:
                taps[unit.tap] = x
        return self.finish(self.layers, x, taps)

    def init_weights(self) -> None:
        """Initialise neck and heads by their own configs, and the units when `init='random'`."""
        super().init_weights()
        if self.init == 'random':
            for layer in self.layers.modules():
                if hasattr(layer, 'reset_parameters'):
                    layer.reset_parameters()
            initialize(
                self.layers,
                [
                    dict(type='Kaiming', layer='Conv2d'),
                    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
                ],
            )

    def mirrored_keys(self) -> dict[str, str]:
        """See `Auxiliary.mirrored_keys`."""
        if self.init == 'random':
            return {}
        return {f'layers.{key}': key for key in self.layers.state_dict()}

    def follow_mode(self, net: nn.Module) -> None:
        """See `Auxiliary.follow_mode`."""
        for path in self.paths:
            pairs = zip(self.layers.get_submodule(path).modules(), net.get_submodule(path).modules(), strict=True)
            for own, source in pairs:
                own.training = source.training
