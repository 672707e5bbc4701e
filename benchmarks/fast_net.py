"""A plain network that learns CIFAR-10 within eight epochs, and a memory format for CPUs.

Six 3x3 convolutions of three stages behind a stem, each with norm and GELU, as the public speed runs on CIFAR-10 have
them, and narrower. It is nobody's family: local learning traces it, as it does any backbone.
"""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, channels_last, nn

__all__ = ['ChannelsLastHook', 'FastNet']


class Layer(nn.Module):
    """A 3x3 convolution, a 2x2 max pooling if wanted, norm, GELU: maps (N, in, H, W) give (N, out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.pool(self.conv(x))))
        return out


@MODELS.register_module()
class FastNet(BaseBackbone):
    """A stem and three stages of two layers, the first of which halves the maps.

    Images (N, 3, H, W) give one map (N, widths[-1], H / 8, W / 8).

    Args:
        stem: Width of the stem.
        widths: Width of each stage.
    """

    def __init__(self, stem: int = 16, widths: tuple[int, ...] = (48, 96, 192)) -> None:
        super().__init__()
        self.stem = Layer(3, stem)
        before = (stem, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(Layer(i, o, pooled=True), Layer(o, o)) for i, o in zip(before, widths, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return (x,)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lays weights, and by them all maps, out with channels last, in which convolutions are faster on CPUs."""

    def before_run(self, runner: Runner) -> None:
        runner.model.to(memory_format=channels_last)
