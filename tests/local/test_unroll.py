"""A backbone as units: their forward is the backbone's, and what cannot be unrolled is refused by name."""

from functools import cache

import pytest
import torch

from man_mm.local import StageOutputs, Unit, Unrolled, copy_layers, register_unroll, run_units, unroll
from man_mm.local.dry_run import activation_bytes

from ..helpers.backbones import ALL
from ..helpers.detection import RESNET, build, images


@cache
def unrolled(name):
    """A backbone and its units, for all tests."""
    net = build(ALL[name][0], 0, ALL[name][1])
    return net, unroll(net)


@pytest.mark.parametrize('name', ALL)
def test_running_all_units_and_finishing_is_the_backbones_forward(name):
    net, described = unrolled(name)
    net.eval()
    x, taps = run_units(described.units, net, images())
    got = described.finish(net, x, taps)
    expected = net(images())
    assert type(got) is type(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize('name', ALL)
def test_units_hold_every_layer_that_the_outputs_need_once(name):
    net, described = unrolled(name)
    net.train()
    owned = [id(p) for unit in described.units for p in unit.parameters(net)]
    owned += [id(p) for path in described.tail for p in net.get_submodule(path).parameters()]
    assert len(owned) == len(set(owned))
    sum(level.sum() for level in net(images())).backward()
    assert {id(p) for p in net.parameters() if p.grad is not None} <= set(owned)


def blocks_of_stages(net):
    """How many blocks each stage of a plain backbone has, up to its last output; a lone layer is one."""
    if hasattr(net, 'stages'):
        stages = [getattr(stage, 'blocks', stage) for stage in net.stages]
    else:
        stages = [getattr(net, name) for name in getattr(net, 'res_layers', None) or net.layers]
    return [len(stage) if hasattr(stage, '__len__') else 1 for stage in stages[: max(net.out_indices) + 1]]


@pytest.mark.parametrize(
    'name', ['resnet18', 'some_outputs', 'frozen_stages', 'regnet', 'mobilenet', 'mobilenet_frozen', 'convnext', 'swin']
)
def test_the_stem_and_every_block_are_units_and_those_of_frozen_stages_do_not_train(name):
    net = build(ALL[name][0], 0, ALL[name][1])
    trains = [any(p.requires_grad for p in unit.parameters(net)) for unit in unroll(net).units]
    blocks = blocks_of_stages(net)
    frozen = 1 + blocks[0] if net.frozen_stages == 1 else 0
    assert trains == [False] * frozen + [True] * (1 + sum(blocks) - frozen)


@pytest.mark.parametrize(
    ('end', 'blocks'), [(1, [1, 3, 5, 7]), (2, [2, 3, 5, 7]), (3, [3, 5, 7]), (4, [4, 5, 7]), (8, [8])]
)
def test_the_small_model_has_the_first_unit_behind_the_cut_of_every_remaining_stage(end, blocks):
    units = unroll(build(RESNET)).units
    chosen = unroll(build(RESNET)).first_of_remaining_stages(end)
    assert [unit.name for unit in chosen] == [units[i].name for i in blocks]
    assert [unit.tap for unit in chosen] == [unit.stage for unit in chosen]


def test_a_backbone_that_cannot_be_traced_is_named_with_the_reason_and_those_that_are_described():
    class Brightest(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return (self.b(self.a(x if x.mean() > 0 else -x)),)

    with pytest.raises(ValueError, match=r'Brightest cannot be unrolled.*decides by what is in an image') as error:
        unroll(Brightest())
    assert 'mmdet.models.backbones.resnet.ResNet' in str(error.value)
    assert 'register_unroll' in str(error.value)


@pytest.mark.parametrize('num_channels', [1, 2, 3])
def test_units_that_make_something_else_are_refused(num_channels):
    """A description of another version of the class, or one that forgets what happens between layers."""

    class Doubled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(num_channels, 4, 1), torch.nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return (self.b(2 * self.a(x)),)

    register_unroll(Doubled)(lambda net: CHAIN)
    with pytest.raises(ValueError, match=r'units of Doubled do not make what .*Doubled.forward makes'):
        unroll(Doubled())


def test_a_unit_that_changes_its_input_in_place_gets_a_copy():
    """What it is given is read again: by the auxiliary of the module before, and maybe from the bank."""

    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (
                torch.nn.Conv2d(3, 4, 1),
                torch.nn.Sequential(torch.nn.ReLU(True), torch.nn.Conv2d(4, 4, 1)),
            )

        def forward(self, x):
            return (self.b(self.a(x)),)

    assert [unit.layers for unit in unroll(InPlace()).units] == [('a', 'b.0'), ('b.1',)]
    units = (Unit('a', 'a', ('a',)), Unit('b', 'b', ('b',), 'b'))
    register_unroll(InPlace)(lambda net: Unrolled(units, StageOutputs(('b',))))
    net = InPlace()
    for described in (unroll(net), unroll(net)):  # the second one is not checked again
        assert [unit.copies_input for unit in described.units] == [False, True]
        x = torch.randn(2, 4, 3, 3, requires_grad=True)
        before = x.detach().clone()
        described.units[1](net, x).sum().backward()
        assert torch.equal(x, before) and x.grad.any()


CHAIN = Unrolled((Unit('a', 'a', ('a',)), Unit('b', 'b', ('b',), 'b')), StageOutputs(('b',)))


def test_a_stage_whose_first_unit_makes_no_map_is_refused_before_training():
    trident = dict(type='TridentResNet', num_branch=3, test_branch_idx=1, trident_dilations=(1, 2, 3), depth=50)
    narrow = dict(base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    net = build({**trident, **narrow, 'norm_cfg': dict(type='BN')})
    with pytest.raises(ValueError, match=r'the units of TridentResNet fail: layer3\.0 makes 3 tensors'):
        unroll(net)


def test_a_description_of_ones_own_goes_before_the_trace():
    class Chain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return (self.b(self.a(x)),)

    class Heir(Chain):
        pass

    assert [unit.stage for unit in unroll(Chain()).units] == ['a', 'a']
    register_unroll(Chain)(lambda net: CHAIN)
    assert unroll(Heir()) == CHAIN


def test_copied_layers_are_apart_under_the_same_paths():
    net = build(RESNET)
    copies = copy_layers(net, ('layer2.0', 'layer3.1.conv1'))
    assert set(copies.state_dict()) == {
        key for key in net.state_dict() if key.startswith(('layer2.0.', 'layer3.1.conv1.'))
    }
    assert not {id(p) for p in copies.parameters()} & {id(p) for p in net.parameters()}


def test_activation_bytes_count_what_a_unit_saves_and_leave_the_backbone_alone():
    net = build({**RESNET, 'norm_eval': False})
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    costs = activation_bytes(net, unroll(net), (64, 64))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    half = activation_bytes(net, unroll(net), (32, 32))
    assert len(costs) == 9 and all(a > b > 0 for a, b in zip(costs, half, strict=True))
    conv1_out, image, pooled = 8 * 32 * 32 * 4, 3 * 64 * 64 * 4, 8 * 16 * 16
    # image, conv1's and the in-place ReLU's output, max-pool's indices; normalisation in eval mode saves no copy
    assert costs[0] == image + 2 * conv1_out + pooled * 8
