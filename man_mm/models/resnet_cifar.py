"""The thin ResNets of the original CIFAR experiments (He et al., 2016, section 4.2)."""

from typing import Any, ClassVar

from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR

__all__ = ['CIFARResNet']


class CIFARResNet(ResNet_CIFAR):
    """ResNet-20, 32, 44, 56, 110, ...: a 3x3 stem, then three stages of n blocks, 16, 32, 64 channels wide.

    Shortcuts that change the size are 1x1 convolutions with norm (option B). Images (N, 3, H, W) give one map
    (N, 64, H / 4, W / 4) by default.

    Args:
        depth: 6n + 2, up to 1202.
        base_channels: Width of the stem and of the first stage; it doubles with every stage.
        kwargs: See mmpretrain's `ResNet`.

    Raises:
        ValueError: If `depth` is not 6n + 2.
    """

    arch_settings: ClassVar = {6 * n + 2: (BasicBlock, (n, n, n)) for n in range(1, 201)}  # up to ResNet-1202

    def __init__(self, depth: int, base_channels: int = 16, **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            raise ValueError(f'backbone.depth={depth!r} must be 6n + 2, up to 1202: 8, 14, 20, 32, 44, 56, 110, ...')
        three_stages: dict[str, Any] = dict(
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            stem_channels=base_channels,
            zero_init_residual=False,
        )
        super().__init__(depth, base_channels=base_channels, **{**three_stages, **kwargs})
