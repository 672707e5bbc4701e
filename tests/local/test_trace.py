"""Backbones that nothing describes: their forward, traced, is units, taps and `finish`."""

import copy
import pickle
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from man_mm.analysis.estimate import FakeTrainStep
from man_mm.local import run_units, unroll
from man_mm.local.dry_run import unit_shapes
from man_mm.versions import tree_leaves

from ..helpers.backbones import NECKLESS
from ..helpers.classification import classifier
from ..helpers.detection import build
from ..helpers.steps import step_config

HRNET = {
    'stage1': dict(num_modules=1, num_branches=1, block='BASIC', num_blocks=(2,), num_channels=(8,)),
    'stage2': dict(num_modules=2, num_branches=2, block='BASIC', num_blocks=(1, 1), num_channels=(4, 8)),
    'stage3': dict(num_modules=1, num_branches=3, block='BASIC', num_blocks=(1, 1, 1), num_channels=(4, 8, 16)),
    'stage4': dict(num_modules=1, num_branches=4, block='BASIC', num_blocks=(1,) * 4, num_channels=(4, 8, 16, 32)),
}
PVT = dict(embed_dims=8, num_layers=[2, 1, 1, 1], num_heads=[1, 1, 1, 1], drop_path_rate=0.0)
SR = dict(in_channels=3, out_channels=3, mid_channels=8, num_blocks=2)
TRACED = {
    'yolox': (dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125), 'mmdet'),
    'rtmdet': (dict(type='CSPNeXt', deepen_factor=0.17, widen_factor=0.125, channel_attention=True), 'mmdet'),
    'branches': (dict(type='HRNet', extra=HRNET), 'mmdet'),
    'tokens with a size': (dict(type='PyramidVisionTransformerV2', **PVT), 'mmdet'),
    'inverted residuals': (dict(type='MobileNetV2', widen_factor=0.25), 'mmdet'),
    'stages that no output needs': (dict(type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2)), 'mmdet'),
    'channel shuffle': (dict(type='ShuffleNetV2', widen_factor=0.5), 'mmpretrain'),
    'dense blocks': (
        dict(type='DenseNet', arch=dict(growth_rate=4, depths=[2, 2, 2, 2], init_channels=8)),
        'mmpretrain',
    ),
    'pooling ends a stage': (dict(type='VGG', depth=11, norm_cfg=dict(type='BN')), 'mmpretrain'),
    'class tokens late': (
        dict(type='XCiT', patch_size=16, embed_dims=16, depth=2, num_heads=2, mlp_ratio=2.0, cls_attn_layers=1),
        'mmpretrain',
    ),
    'a network within': (dict(type='TIMMBackbone', model_name='resnet10t', features_only=False), 'mmpretrain'),
    'the image again': (dict(type='MSRResNet', upscale_factor=4, **SR), 'mmagic'),
    'dense residuals': (dict(type='RRDBNet', growth_channels=4, upscale_factor=4, **SR), 'mmagic'),
    'a U': (
        dict(type='NAFNet', img_channels=3, mid_channels=4, enc_blk_nums=[1, 1], middle_blk_num=1, dec_blk_nums=[1, 1]),
        'mmagic',
    ),
}
TNT = dict(embed_dims_outer=16, embed_dims_inner=8, num_layers=3, num_heads_outer=2, num_heads_inner=2)
WITH_THE_BATCH = ('class tokens late',)
"""The number of images passes between their units, as a size."""


MOSTLY = [
    name if name in ('yolox', 'branches', 'class tokens late', 'the image again', 'a U') else param
    for name, param in ((name, pytest.param(name, marks=pytest.mark.long)) for name in TRACED)
]
"""A backbone of each library, and with each kind of value between its units; for the others this is long."""


def net_of(name, training=False):
    cfg, scope = TRACED[name]
    net = build(cfg, scope=scope)
    net.train(training)  # on a line of its own: it returns None for some
    return net


@cache
def described(name):
    """What a backbone is unrolled into, traced once for all tests."""
    return unroll(net_of(name))


def images(height=64, width=64, num=2):
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(0))


def made(unrolled, net, x):
    torch.manual_seed(1)
    return unrolled.finish(net, *run_units(unrolled.units, net, x))


def expected(net, x):
    torch.manual_seed(1)
    return net(x)


def equal(own, other):
    kinds = tree_map_only(torch.Tensor, lambda _: None, [own, other])
    flat = [tree_leaves(value) for value in (own, other)]
    return kinds[0] == kinds[1] and all(torch.equal(a, b) for a, b in zip(*flat, strict=True))


@pytest.mark.parametrize('name', TRACED)
def test_units_make_the_forward_of_images_of_any_size(name):
    own, other = net_of(name), net_of(name)
    for training, *size in ((False, 64, 64), (False, 64, 96), (True, 96, 64)):  # it is traced with one of 64 px
        own.train(training)
        other.train(training)
        assert equal(made(described(name), own, images(*size)), expected(other, images(*size)))
    if name != 'stages that no output needs':
        assert equal(list(own.state_dict().values()), list(other.state_dict().values()))


@pytest.mark.parametrize('name', TRACED)
def test_units_and_tail_hold_every_layer_that_the_outputs_need_once(name):
    net, unrolled = net_of(name, True), described(name)
    owned = [id(p) for unit in unrolled.units for p in unit.parameters(net)]
    owned += [id(p) for path in unrolled.tail for p in net.get_submodule(path).parameters()]
    assert len(owned) == len(set(owned))
    sum(level.sum() for level in tree_leaves(net(images()))).backward()
    assert {id(p) for p in net.parameters() if p.grad is not None} <= set(owned)
    stages = [unit.stage for unit in unrolled.units]
    assert all(stages.index(stage) + stages.count(stage) > i for i, stage in enumerate(stages))  # in a row


@pytest.mark.parametrize('name', MOSTLY)
def test_a_description_is_data(name):
    net = net_of(name)
    pickled = pickle.loads(pickle.dumps(described(name)))
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    twin.eval()  # torch < 2.3 converts to norms that train
    assert equal(made(pickled, twin, images()), net(images()))
    assert unroll(copy.deepcopy(net)) == described(name)


@pytest.mark.parametrize('name', MOSTLY)
def test_the_first_unit_of_every_remaining_stage_makes_what_the_backbone_returns(name):
    """At every cut, with gradients for every weight of the small model, and shapes told without running."""
    cfg, scope = TRACED[name]
    num_units = len([unit for unit in described(name).units if unit.layers])
    net = build(
        dict(type='man_mm.LocalBackbone', backbone=cfg, num_modules=min(num_units, 4), auxiliary=NECKLESS), 0, scope
    )
    net.train()
    wanted = tree_map_only(torch.Tensor, lambda level: level.shape, net.backbone(images()))
    shapes, units, x, bank = unit_shapes(net.backbone, net.unrolled, (64, 64)), iter(range(99)), images(), {}
    for module in net.local_modules[:-1]:
        x, taps = module.run(net.backbone, x)
        *_, last = (shapes[next(units)] for _ in module.units)
        if name not in WITH_THE_BATCH:
            assert last == tree_map_only(torch.Tensor, lambda y: tuple(y.shape[1:]), x)
        bank |= {name: tap.detach() for name, tap in taps.items()}
        features = module.auxiliary(x, {**bank, **taps})
        assert tree_map_only(torch.Tensor, lambda level: level.shape, features) == wanted
        sum(level.sum() for level in tree_leaves(features)).backward()
        idle = [key for key, p in module.auxiliary.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle
        assert any(p.grad is not None for p in module.parameters(net.backbone))


class Chain(nn.Module):
    """Convolutions, a norm, pooling: the parts of `forwards` below."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.pool, self.relu = nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()
        self.scale = nn.Parameter(torch.ones(1))


def chain(forward):
    kind = type('Chain', (Chain,), {'forward': forward})
    return kind()


def units_of(forward):
    described = unroll(chain(forward))
    return {unit.name: (unit.layers, unit.stage, unit.tap) for unit in described.units}, described


def test_norms_and_activations_end_a_unit_and_pooling_begins_the_next_stage():
    units, described = units_of(
        lambda self, x: (self.d(self.relu(self.c(self.pool(self.relu(self.norm(self.b(self.a(x)))))))),)
    )
    assert units == {
        'a': (('a',), 'a', None),
        'b': (('b', 'norm', 'relu'), 'a', 'a'),
        'c': (('pool', 'c', 'relu'), 'c', None),
        'd': (('d',), 'c', 'c'),
    }
    assert [unit.pooled for unit in described.units] == [False, True, False, False]


def test_what_the_outputs_read_is_a_tap_and_layers_behind_it_are_the_tail():
    def forward(self, x):
        x = self.b(self.a(x))
        first = self.norm(x)
        x = self.d(self.c(x))
        return first, self.relu(x)

    units, described = units_of(forward)
    assert units == {
        'a': (('a',), 'a', None),
        'b': (('b',), 'a', 'a'),
        'c': (('c',), 'c', None),
        'd': (('d', 'relu'), 'c', None),
    }
    assert described.tail == ('norm',)


def test_a_skip_over_all_blocks_is_a_tap_and_blocks_with_a_skip_are_not_cut():
    def forward(self, x):
        first = self.a(x)
        x = first + self.norm(self.b(first))
        return self.d(self.c(first + x))

    units, described = units_of(forward)
    assert [layers for layers, *_ in units.values()] == [('a',), ('b', 'norm'), ('c',), ('d',)]
    assert described.tail == ()


def test_a_weight_of_the_backbone_itself_is_its_units():
    net = chain(lambda self, x: self.c(self.b(self.a(x)) * self.scale))
    described = unroll(net)
    (holder,) = [unit for unit in described.units if unit.tensors]
    assert any(p is net.scale for p in holder.parameters(net))


def test_images_that_lead_elsewhere_are_refused_where_the_forward_decides_by_their_size():
    net = chain(lambda self, x: (self.c(self.b(self.a(x if x.shape[-1] > 32 else x[..., ::2]))),))
    described = unroll(net)
    with pytest.raises(ValueError, match=r'traced with gt = True, by which it decides .* now it is False'):
        run_units(described.units, net, images(32, 32))


def test_the_size_in_the_config_of_a_backbone_is_the_one_that_is_traced():
    """T2T-ViT resizes its positions for images of another size, and keeps no `img_size`."""
    net = dict(
        type='T2T_ViT',
        img_size=32,
        embed_dims=16,
        num_layers=2,
        layer_cfgs=dict(num_heads=2, feedforward_channels=32),
        t2t_cfg=dict(token_dims=8),
    )
    cfg = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=2, auxiliary=dict(type='man_mm.SLM'))
    ours = build(cfg, scope='mmpretrain')
    x, taps = run_units(ours.unrolled.units, ours.backbone, images(32, 32))
    assert ours.unrolled.finish(ours.backbone, x, taps)[0].shape == ours.backbone(images(32, 32))[0].shape
    with pytest.raises(ValueError, match='by which it decides'):
        run_units(ours.unrolled.units, ours.backbone, images(64, 64))


def test_a_backbone_without_a_place_to_cut_says_so():
    with pytest.raises(ValueError, match=r'Chain cannot be unrolled: .*no place behind its first layers'):
        unroll(chain(lambda self, x: self.relu(self.a(x)) + self.pool(x).mean()))


def test_blocks_that_change_in_place_what_they_are_given_get_copies():
    net = build(dict(type='TNT', arch=TNT, img_size=64), scope='mmpretrain')
    net.eval()
    described = unroll(net)
    assert any(unit.copies_input for unit in described.units)
    x, taps = run_units(described.units, net, images(64, 64))
    for ours, theirs in zip(described.finish(net, x, taps), net(images(64, 64)), strict=True):
        assert torch.equal(ours, theirs)


def test_units_get_copies_where_nothing_has_values_too():
    cfg = dict(type='TNT', arch=TNT, img_size=64)
    copying = {unit.name for unit in unroll(build(cfg, scope='mmpretrain')).units if unit.copies_input}
    plain = dict(classifier(), backbone=cfg)
    fake = FakeTrainStep(step_config(plain, 'mmpretrain')).model.backbone
    assert copying == {unit.name for unit in unroll(fake).units if unit.copies_input} != set()


def keeps(self, x):
    self.last = self.a(x)
    return (self.b(self.last),)


def without_gradients(self, x):
    with torch.no_grad():
        x = self.a(x)
    return (self.c(self.b(x)),)


def in_full_precision(self, x):
    with torch.autocast('cpu', enabled=False):
        x = self.a(x)
    return (self.c(self.b(x)),)


def counts(self, x):
    self.norm.running_mean.lerp_(x.mean(), 0.1)
    return (self.c(self.b(self.a(x))),)


UNTRACEABLE = {
    'an attribute': (keeps, 'it keeps a value as its attribute last'),
    'gradients off': (without_gradients, 'it switches gradients or mixed precision off'),
    'full precision': (in_full_precision, 'it switches gradients or mixed precision off'),
    'a change in place': (counts, 'it changes a value in place'),
    'a layer in two units': (lambda self, x: (self.c(self.b(self.b(self.a(x)))),), 'b would belong to more than one'),
}


@pytest.mark.parametrize('name', UNTRACEABLE)
def test_what_a_trace_would_lose_is_refused_with_the_reason(name):
    forward, reason = UNTRACEABLE[name]
    net = chain(forward)
    before = {layer: dict(vars(layer)) for layer in net.modules()}
    with pytest.raises(ValueError, match=f'Chain cannot be unrolled: .*{reason}'):
        unroll(net)
    assert all(vars(layer) == attributes for layer, attributes in before.items())


def test_a_size_that_is_no_more_that_of_the_map_is_refused():
    """At the size of the trace both are equal: a half, rounded down, and what a stride of 2 makes."""

    def forward(self, x):
        size = x.shape[-2] // 2, x.shape[-1] // 2
        x = self.c(self.b(self.pool(self.a(x))))
        return (self.d(nn.functional.interpolate(x, size)),)

    net = chain(forward)
    net.pool = nn.MaxPool2d(3, 2, 1)
    described = unroll(net)
    assert equal(made(described, net, images(64, 64)), net(images(64, 64)))
    with pytest.raises(ValueError, match=r'traced with floordiv\S* as the size of'):
        made(described, net, images(65, 97))
