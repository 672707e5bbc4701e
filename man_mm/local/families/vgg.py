"""VGGs: stages of convolutions with pooling between them, all of them layers of one `Sequential`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..unroll import Activation, StageOutputs, Unit, Unrolled, register_unroll
from .stages import staged

__all__: list[str] = []


@register_unroll('mmpretrain.models.backbones.vgg.VGG')
def vgg(net: Any) -> Unrolled:
    """A unit for each convolution; a stage ends with its pooling.

    Raises:
        ValueError: For a VGG with its classifier.
    """
    if net.num_classes > 0:
        raise ValueError(
            f'backbone: VGG with num_classes={net.num_classes} cannot be unrolled: leave num_classes out, and give the '
            'model a head.'
        )
    net._freeze_stages()  # upstream does so only in train(), after the cuts that depend on it
    stages = _stages(net, [start for start, _ in net.range_sub_modules])
    outputs = tuple(f'stage{index + 1}' for index in sorted(net.out_indices))
    return Unrolled(staged(None, stages, net.out_indices), StageOutputs(outputs))


@register_unroll('mmdet.models.backbones.ssd_vgg.SSDVGG')
def ssd_vgg(net: Any) -> Unrolled:
    """A unit for each convolution; a stage begins with its pooling, since SSD reads the maps before it.

    Raises:
        ValueError: If `out_feature_indices` names other layers than the last ones of stages.
    """
    starts = [0, *(i for i, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d))]
    stages = _stages(net, starts)
    ends = {end - 1: index for index, end in enumerate([*starts[1:], len(net.features)])}
    if not set(net.out_feature_indices) <= set(ends):
        raise ValueError(
            f'backbone: SSDVGG with out_feature_indices={net.out_feature_indices} cannot be unrolled: known are the '
            f'layers before a pooling and the last one, {sorted(ends)}.'
        )
    outputs = sorted(ends[index] for index in net.out_feature_indices)
    names = tuple(f'stage{index + 1}' for index in outputs)
    return Unrolled(staged(None, stages, outputs), StageOutputs(names) if len(names) > 1 else _last)


def _last(net: nn.Module, x: Activation, taps: Mapping[str, Tensor]) -> Activation:
    """`finish` of a backbone that returns one map, not in a tuple."""
    return x


def _stages(net: Any, starts: Sequence[int]) -> Iterator[list[Unit]]:
    """The units of each stage, whose first layers have the indices `starts`."""
    for stage, (start, end) in enumerate(pairwise([*starts, len(net.features)]), 1):
        convs = [i for i in range(start, end) if _convolves(net.features[i])]
        parts = pairwise([start, *convs[1:], end])
        yield [_unit(f'stage{stage}', index, range(*part)) for index, part in enumerate(parts)]


def _unit(stage: str, index: int, layers: Iterable[int]) -> Unit:
    return Unit(f'{stage}.{index}', stage, tuple(f'features.{layer}' for layer in layers))


def _convolves(layer: nn.Module) -> bool:
    """Whether it is a convolution, alone (MMDetection) or with its norm and activation (MMPretrain)."""
    return any(isinstance(part, nn.Conv2d) for part in layer.modules())
