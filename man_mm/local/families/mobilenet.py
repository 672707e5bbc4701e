"""MobileNets: a convolution, stages of inverted residual blocks, a last convolution that is a stage of its own."""

from typing import Any

from ..unroll import Unrolled, register_unroll
from .stages import unroll_stages

__all__: list[str] = []


@register_unroll(
    'mmdet.models.backbones.mobilenet_v2.MobileNetV2',
    'mmpretrain.models.backbones.mobilenet_v2.MobileNetV2',
)
def mobilenet_v2(net: Any) -> Unrolled:
    net._freeze_stages()  # upstream does so only in train(), after the cuts that depend on it
    return unroll_stages(net, ('conv1',), net.layers)
