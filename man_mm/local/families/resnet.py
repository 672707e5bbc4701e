"""ResNets: a stem, then stages of residual blocks."""

from typing import Any

from ..units import Unrolled
from ..unroll import register_unroll
from .stages import unroll_stages

__all__: list[str] = []


@register_unroll(
    'mmdet.models.backbones.resnet.ResNet',  # also ResNetV1d, ResNeXt, Res2Net, ResNeSt
    'mmpretrain.models.backbones.resnet.ResNet',
    'mmseg.models.backbones.resnet.ResNet',
    'mmpose.models.backbones.resnet.ResNet',
)
def resnet(net: Any) -> Unrolled:
    stem = ('stem',) if net.deep_stem else ('conv1', net.norm1_name, 'relu')
    return unroll_stages(net, (*stem, 'maxpool'), net.res_layers)


@register_unroll(
    'mmpretrain.models.backbones.resnet_cifar.ResNet_CIFAR',  # also man_mm.CIFARResNet
    'mmdet.models.backbones.regnet.RegNet',
    'mmpretrain.models.backbones.regnet.RegNet',
)
def resnet_without_pooling(net: Any) -> Unrolled:
    return unroll_stages(net, ('conv1', net.norm1_name, 'relu'), net.res_layers)
