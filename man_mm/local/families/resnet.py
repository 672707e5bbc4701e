"""ResNets: a stem, then stages of residual blocks."""

from typing import Any

from torch import nn

from ..unroll import StageOutputs, Unit, Unrolled, register_unroll

__all__: list[str] = []


def _residual(net: Any, stem: tuple[str, ...]) -> Unrolled:
    """A stem, then `net.res_layers`, each a `Sequential` of blocks; the outputs are the stages in `net.out_indices`.

    Stages after the last output are left out: nothing could train them. The end of an earlier stage that is no output
    is a pooled tap.
    """
    units = [Unit('stem', 'stem', stem)]
    for stage in range(max(net.out_indices) + 1):
        name = net.res_layers[stage]
        num_blocks = len(net.get_submodule(name))
        units += [Unit(f'{name}.{i}', name, (f'{name}.{i}',)) for i in range(num_blocks - 1)]
        last = f'{name}.{num_blocks - 1}'
        units.append(Unit(last, name, (last,), tap=name, pooled=stage not in net.out_indices))
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


@register_unroll('mmpretrain.models.backbones.resnet_cifar.ResNet_CIFAR')  # also man_mm.CIFARResNet
def resnet_cifar(net: nn.Module) -> Unrolled:
    return _residual(net, ('conv1', str(net.norm1_name), 'relu'))
