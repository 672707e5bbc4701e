"""The backbone families that `unroll` knows, found by the dotted name of their class: nothing is imported."""

from typing import Any

from torch import nn

from .unroll import StageOutputs, Unit, Unrolled, register_unroll

__all__: list[str] = []


def _residual(net: Any, stem: tuple[str, ...]) -> Unrolled:
    """A stem, then `net.res_layers`, each a `Sequential` of blocks; the taps are the stages in `net.out_indices`.

    Stages after the last tap reach no output, so they are left out: nothing could train them.
    """
    units = [Unit('stem', 'stem', stem)]
    for stage in range(max(net.out_indices) + 1):
        name = net.res_layers[stage]
        num_blocks = len(net.get_submodule(name))
        for i in range(num_blocks):
            is_tap = i == num_blocks - 1 and stage in net.out_indices
            units.append(Unit(f'{name}.{i}', name, (f'{name}.{i}',), name if is_tap else None))
    return Unrolled(tuple(units), StageOutputs(tuple(net.res_layers[i] for i in sorted(net.out_indices))))


@register_unroll(
    'mmdet.models.backbones.resnet.ResNet',  # also ResNetV1d, ResNeXt, Res2Net, ResNeSt
    'mmpretrain.models.backbones.resnet.ResNet',
    'mmseg.models.backbones.resnet.ResNet',
    'mmpose.models.backbones.resnet.ResNet',
)
def resnet(net: nn.Module) -> Unrolled:
    stem = ('stem',) if net.deep_stem else ('conv1', str(net.norm1_name), 'relu')
    return _residual(net, (*stem, 'maxpool'))
