"""CIFARResNet is the network of the papers: parameters, strides, shortcuts, initialisation."""

import pytest
import torch
from torch import nn

from ..helpers.classification import classifier, make
from ..helpers.detection import build

pytestmark = pytest.mark.usefixtures('device')

RESNET32 = dict(type='man_mm.CIFARResNet', depth=32)


def parameters(depth):
    """By the definition: 3x3 convolutions without bias, a norm after each, 1x1 shortcuts with norm, a classifier."""
    n = (depth - 2) // 6
    count = 3 * 16 * 9 + 2 * 16
    before = 16
    for width in (16, 32, 64):
        for block in range(n):
            source = before if block == 0 else width
            count += 9 * source * width + 9 * width * width + 4 * width
            if source != width:
                count += source * width + 2 * width
        before = width
    return count + 64 * 10 + 10


@pytest.mark.parametrize(('depth', 'published'), [(20, None), (32, 466_906), (110, None)])
def test_number_of_parameters(depth, published):
    count = sum(p.numel() for p in make(classifier(net_depth=depth, width=16)).parameters())
    assert count == parameters(depth) and count == (published or count)


@pytest.mark.parametrize('size', [32, 96])
def test_maps_halve_at_the_second_and_third_stage(size):
    net = build(RESNET32, scope='mmpretrain')
    shapes = []
    for name in ('conv1', 'layer1', 'layer2', 'layer3'):
        net.get_submodule(name).register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    (output,) = net(torch.zeros(2, 3, size, size))
    assert shapes == [(16, size, size), (16, size, size), (32, size // 2, size // 2), (64, size // 4, size // 4)]
    assert output.shape == (2, 64, size // 4, size // 4)


def test_shortcuts_are_convolutions_where_the_size_changes_and_identities_elsewhere():
    net = build(RESNET32, scope='mmpretrain')
    for stage in (1, 2, 3):
        for i, block in enumerate(net.get_submodule(f'layer{stage}')):
            if stage > 1 and i == 0:
                conv, norm = block.downsample
                assert conv.kernel_size == (1, 1) and conv.stride == (2, 2) and conv.bias is None
                assert isinstance(norm, nn.BatchNorm2d)
            else:
                assert block.downsample is None


def test_weights_start_as_in_the_papers():
    model = make(classifier(net_depth=32, width=16))
    for layer in model.backbone.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            std = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.08)
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert 0.9 / 8 < model.head.fc.weight.abs().max() <= 1 / 8  # torch's default: uniform, 1 / sqrt(64)


@pytest.mark.parametrize('depth', [18, 31, 33, 2, '32', 32.5])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=r'backbone\.depth=.* must be 6n \+ 2, up to 1202: 8, 14, 20, 32'):
        build(dict(RESNET32, depth=depth), scope='mmpretrain')


def test_a_detector_may_be_built_on_it():
    net = build(dict(RESNET32, out_indices=(0, 1, 2)), scope='mmdet')
    assert [level.shape[1] for level in net(torch.zeros(1, 3, 32, 32))] == [16, 32, 64]
