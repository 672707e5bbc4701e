"""A backbone of your own, and its description: five lines let it be trained module by module."""

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from man_mm.local import Unrolled, register_unroll, unroll_stages

__all__ = ['PlainNet']

STAGES = ('stage1', 'stage2', 'stage3', 'stage4')


@MODELS.register_module()
class PlainNet(BaseModule):
    """A stem and four stages of two convolutions each, without shortcuts.

    Args:
        width: Channels of the first stage; every further one has twice as many, at half the size.
        init_cfg: See `BaseModule`.
    """

    out_indices = (0, 1, 2, 3)

    def __init__(self, width: int = 8, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.stem = block(3, width)
        for index, name in enumerate(STAGES):
            channels = width * 2**index
            self.add_module(
                name,
                nn.Sequential(block(channels if index == 0 else channels // 2, channels), block(channels, channels, 1)),
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of strides 4, 8, 16 and 32 px for images `x` (N, 3, H, W)."""
        x, maps = self.stem(x), []
        for name in STAGES:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return tuple(maps)


def block(in_channels: int, channels: int, stride: int = 2) -> nn.Sequential:
    """A 3x3 convolution with its norm."""
    conv = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


@register_unroll(PlainNet)
def plain_net(net: PlainNet) -> Unrolled:
    """How `PlainNet.forward` goes."""
    return unroll_stages(net, ('stem',), STAGES)
