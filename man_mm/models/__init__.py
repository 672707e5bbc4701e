"""Models that upstream lacks. They know nothing of local learning.

Their classes derive from host libraries, which are imported when one is built: a detector needs no mmpretrain.
"""

from typing import Any

from torch import nn

from ..registry import MODELS

__all__ = ['cifar_resnet', 'yolov1']


@MODELS.register_module(name='CIFARResNet')
def cifar_resnet(**kwargs: Any) -> nn.Module:
    """Build a `man_mm.models.resnet_cifar.CIFARResNet`."""
    from .resnet_cifar import CIFARResNet

    return CIFARResNet(**kwargs)


@MODELS.register_module(name='YOLOV1Head')
def yolov1(**kwargs: Any) -> nn.Module:
    """Build a `man_mm.models.yolov1_head.YOLOV1Head`."""
    from .yolov1_head import YOLOV1Head

    return YOLOV1Head(**kwargs)
