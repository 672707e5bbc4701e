"""AugLocal: depth, chosen units, widths and strides against the table of the authors' rule."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from man_mm.auxiliary.auglocal import auxiliary_depth, chosen_units
from man_mm.local import StageOutputs, Unit, Unrolled, register_unroll

from ..helpers.classification import batch, classifier, make, resnet32
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')

UNITS = ['stem', *(f'layer{stage}.{i}' for stage in (1, 2, 3) for i in range(5))]
DEPTHS = {
    1: [1] * 14,
    2: [2] * 13,
    3: [3] * 6 + [2] * 6,
    4: [4] * 4 + [3] * 6 + [2],
    5: [5] * 3 + [4] * 4 + [3] * 3,
}
SHAPES = {
    (1, 0): '64(2)',
    (1, 5): '64(2)',
    (1, 6): '64(2)',
    (1, 10): '64(2)',
    (1, 11): '64(1)',
    (2, 0): '32(2) 64(2)',
    (2, 5): '32(2) 64(2)',
    (2, 6): '32(1) 64(2)',
    (2, 10): '64(2) 64(1)',
    (2, 11): '64(1) 64(1)',
    (3, 0): '16(1) 32(2) 64(2)',
    (3, 5): '32(2) 64(2) 64(1)',
    (3, 6): '32(1) 64(2)',
    (3, 10): '64(2) 64(1)',
    (3, 11): '64(1) 64(1)',
    (4, 0): '16(1) 32(2) 64(2) 64(1)',
    (4, 5): '32(2) 64(2) 64(1)',
    (4, 6): '32(1) 64(2) 64(1)',
    (4, 10): '64(2) 64(1)',
    (5, 0): '16(1) 32(2) 32(1) 64(2) 64(1)',
    (5, 5): '32(2) 32(1) 64(2) 64(1)',
    (5, 6): '32(1) 32(1) 64(2) 64(1)',
}
"""By d and module: width (stride) of the auxiliary's blocks, when the first 15 - d units are a module each."""


def authors_model(depth):
    """ResNet-32 as the authors cut it: 16 - d modules, the last one made of d + 1 units."""
    return resnet32('auglocal', 16 - depth, backbone_partition=UNITS[: 15 - depth], depth=depth)


@pytest.mark.parametrize('depth', DEPTHS)
def test_the_depth_falls_as_published(depth):
    assert [auxiliary_depth(m, 16 - depth, depth, 0.5) for m in range(15 - depth)][: len(DEPTHS[depth])] == DEPTHS[
        depth
    ]


@pytest.mark.parametrize('depth', DEPTHS)
def test_blocks_have_the_published_widths_and_strides(depth):
    auxiliaries = authors_model(depth).backbone.auxiliaries
    for (d, module), expected in SHAPES.items():
        if d == depth:
            blocks = [unit[0] for unit in auxiliaries[module].units]
            assert ' '.join(f'{b.conv2.out_channels}({b.conv1.stride[0]})' for b in blocks) == expected, module


@pytest.mark.parametrize('depth', DEPTHS)
def test_every_auxiliary_runs_and_normalises_its_vector_only_if_it_is_one_block_deep(depth):
    model = authors_model(depth).train()
    shapes = [(16, 32)] * 6 + [(32, 16)] * 5 + [(64, 8)] * 5
    assert [len(auxiliary.units) for auxiliary in model.backbone.auxiliaries] == DEPTHS[depth]
    for module, auxiliary in enumerate(model.backbone.auxiliaries):
        channels, size = shapes[module]
        x = z = torch.randn(2, channels, size, size)
        for unit in auxiliary.units:
            z = unit(z)
        is_shallow = DEPTHS[depth][module] == 1
        z = z.mean((2, 3))
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() if is_shallow else z
        assert z.shape == (2, 64)
        torch.testing.assert_close(auxiliary(x, {}), z, rtol=1e-4, atol=1e-5)
        assert isinstance(auxiliary.norm, nn.BatchNorm1d if is_shallow else nn.Identity)
        assert auxiliary.heads.head.fc.weight.shape == (10, 64)


@pytest.mark.parametrize(
    ('index', 'depth', 'chosen'),
    [(0, 2, [8, 15]), (10, 2, [12, 15]), (4, 5, [6, 8, 11, 13, 15]), (12, 5, [13, 14, 15]), (14, 3, [15])],
)
def test_units_are_spread_evenly_and_end_at_the_last(index, depth, chosen):
    assert chosen_units(index, 15, depth) == chosen


def test_a_jump_over_two_stages_leaves_its_second_halving_to_the_next_unit():
    """From 16 channels at 32 px straight into the third stage of ResNet-32, and then on in it."""
    auxiliary = resnet32('auglocal', 2, backbone_partition=['layer1.4'], depth=1).backbone.auxiliaries[0]
    assert auxiliary.units[0](torch.randn(1, 16, 32, 32)).shape == (1, 64, 16, 16)  # the second halving is lost
    deeper = make(classifier('auglocal', 2, backbone_partition=['stem'], net_depth=20, depth=2)).backbone.auxiliaries[0]
    strides = [unit[0].conv1.stride[0] for unit in deeper.units]
    assert strides == [2, 2]


@pytest.mark.parametrize('num_modules', [2, 5, 16])
def test_weights_are_drawn_afresh(num_modules):
    model = resnet32('auglocal', num_modules)
    trunk = {p.data_ptr() for p in model.backbone.backbone.parameters()}
    kernels = [m.weight for m in model.backbone.backbone.modules() if isinstance(m, nn.Conv2d)]
    for auxiliary in model.backbone.auxiliaries:
        assert not trunk & {p.data_ptr() for p in auxiliary.parameters()}
        for unit in auxiliary.units:
            own = unit[0].conv2.weight
            assert not any(own.shape == kernel.shape and torch.equal(own, kernel) for kernel in kernels)
            assert own.std().item() == pytest.approx((2 / (9 * own.shape[0])) ** 0.5, rel=0.1)


RESNET50 = dict(type='ResNet', depth=50, base_channels=4, stem_channels=4, out_indices=(3,))
VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
    img_size=16,
    patch_size=4,
)


@pytest.mark.parametrize('num_modules', [2, 4])
@pytest.mark.parametrize(
    ('net', 'head', 'neck'),
    [
        (RESNET50, dict(type='LinearClsHead', in_channels=128), dict(type='GlobalAveragePooling')),
        (VIT, dict(type='VisionTransformerClsHead', in_channels=16), None),
        (VIT, dict(type='VisionTransformerClsHead', in_channels=16, hidden_dim=8), None),
    ],
    ids=['bottleneck', 'vit', 'vit with hidden layer'],
)
def test_other_backbones_train(net, head, neck, num_modules):
    cfg = classifier('auglocal', num_modules, model=dict(head=dict(head, num_classes=10), neck=neck))
    cfg['backbone'].update(backbone=net, probe_size=(32, 32) if net is RESNET50 else (16, 16))
    run = Trainer(make(cfg))
    run.step(batch(4, size=32 if net is RESNET50 else 16))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}


def test_a_transformer_whose_output_is_a_map_trains():
    head = dict(type='LinearClsHead', in_channels=16, num_classes=10)
    cfg = classifier('auglocal', 2, model=dict(head=head))  # with GlobalAveragePooling, which the plain model needs
    cfg['backbone'].update(backbone=dict(VIT, out_type='featmap'))
    run = Trainer(make(cfg))
    run.step(batch(4))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}


def test_a_block_made_to_read_other_channels_keeps_its_kind_of_convolution():
    cfg = classifier(
        'auglocal', 2, depth=1, model=dict(head=dict(type='LinearClsHead', in_channels=128, num_classes=10))
    )
    cfg['backbone'].update(backbone=dict(RESNET50, conv_cfg=dict(type='ConvWS')), probe_size=(32, 32))
    model = make(cfg)
    kinds = {type(m) for m in model.backbone.backbone.modules() if isinstance(m, nn.Conv2d)}
    assert len(kinds) == 1 and kinds != {nn.Conv2d}  # weights are standardised
    block = model.backbone.auxiliaries[0].units[0][0]
    assert block.conv1.in_channels != model.backbone.backbone.layer4[0].conv1.in_channels

    assert {type(m) for m in block.modules() if isinstance(m, nn.Conv2d)} == kinds


class PlainNet(nn.Module):
    """Two stages of two convolutions without shortcuts."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.e = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return (self.e(self.d(self.c(self.b(self.a(x))))),)


@register_unroll(PlainNet)
def plain_net(net):
    units = [Unit(name, stage, (name,)) for name, stage in zip('abcde', '11233', strict=True)]
    return Unrolled((*units[:-1], replace(units[-1], tap='e')), StageOutputs(('e',)))


def test_a_unit_that_is_no_residual_block_is_refused_only_where_it_has_to_change():
    cfg = classifier('auglocal', 2, depth=4, backbone_partition=['a'])
    cfg['backbone']['backbone'] = dict(type=PlainNet)
    assert [unit[0].in_channels for unit in make(cfg).backbone.auxiliaries[0].units] == [4, 4, 8, 16]  # all there are
    cfg['backbone']['auxiliary']['depth'] = 1
    with pytest.raises(ValueError, match=r'cannot make d \(Conv2d\) read 4 channels: it knows residual blocks'):
        make(cfg)


class DoubledNet(PlainNet):
    """The same with a unit that is more than its layers."""

    def forward(self, x):
        return tuple(2 * level for level in super().forward(x))


@register_unroll(DoubledNet)
def doubled_net(net):
    described = plain_net(net)
    *others, last = described.units
    return replace(described, units=(*others, replace(last, function=lambda net, x: 2 * net.e(x))))


def test_a_unit_that_is_more_than_its_layers_is_refused():
    cfg = classifier('auglocal', 2, depth=1, backbone_partition=['d'])
    cfg['backbone']['backbone'] = dict(type=DoubledNet)
    with pytest.raises(ValueError, match=r'cannot copy e: it is more than its layers in turn'):
        make(cfg)


def test_a_transformer_with_several_outputs_is_refused():
    cfg = classifier(
        'auglocal', 2, model=dict(head=dict(type='VisionTransformerClsHead', in_channels=16, num_classes=10), neck=None)
    )
    cfg['backbone'].update(backbone=dict(VIT, out_indices=[1, 3]))
    with pytest.raises(ValueError, match=r'backbone\.out_indices must name one layer'):
        make(cfg)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=0), 'auxiliary.depth=0 must be'),
        (dict(depth=2.0), 'auxiliary.depth=2.0'),
        (dict(decay=2), 'auxiliary.decay=2 must be'),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(classifier('auglocal', **options))
