"""Backbones for classification as units: vision transformers, ResNets of CIFAR, and what the bank pools of them."""

import pytest
import torch

from man_mm.local import run_units, unroll
from man_mm.local.dry_run import unit_shapes

from ..helpers.classification import batch, classifier, make, resnet32
from ..helpers.detection import RESNET, build, images
from ..helpers.training import Trainer, assert_equal

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=64, patch_size=16)
VITS = {
    'cls_token': VIT,
    'raw': dict(VIT, out_type='raw'),
    'featmap': dict(VIT, out_type='featmap'),
    'avg_featmap': dict(VIT, out_type='avg_featmap'),
    'no class token': dict(VIT, out_type='avg_featmap', with_cls_token=False),
    'no final norm': dict(VIT, final_norm=False),
    'norm before': dict(VIT, pre_norm=True),
    'inner outputs': dict(VIT, out_indices=[0, 2]),
    'three outputs': dict(VIT, out_indices=[1, 2, 3], out_type='featmap'),
    'dropout': dict(VIT, drop_rate=0.3, drop_path_rate=0.3),
}


def vit(name, training=False):
    net = build(VITS[name], scope='mmpretrain')
    net.train(training)  # on a line of its own: it returns None
    return net


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', VITS)
def test_units_of_a_transformer_make_its_forward(name, training):
    net = vit(name, training)
    described = unroll(net)
    torch.manual_seed(1)
    expected = net(images())
    torch.manual_seed(1)
    x, taps = run_units(described.units, net, images())
    got = described.finish(net, x, taps)
    assert len(got) == len(expected) and all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize('name', VITS)
def test_units_of_a_transformer_hold_every_parameter_that_its_outputs_need_once(name):
    net = vit(name)
    described = unroll(net)
    owned = [id(p) for unit in described.units for p in unit.parameters(net)]
    owned += [id(p) for path in described.tail for p in net.get_submodule(path).parameters()]
    assert len(owned) == len(set(owned))
    sum(level.sum() for level in net(images())).backward()
    assert {id(p) for p in net.parameters() if p.grad is not None} <= set(owned)


@pytest.mark.parametrize('num_modules', [1, 2, 5])
def test_a_wrapped_transformer_shows_neither_in_outputs_nor_in_keys(num_modules):
    plain = vit('cls_token')
    cfg = dict(type='man_mm.LocalBackbone', backbone=VIT, num_modules=num_modules, auxiliary=dict(type='man_mm.SLM'))
    ours = build(cfg, 1, 'mmpretrain').eval()
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert [key for key in ours.state_dict() if 'auxiliaries.' not in key] == list(plain.state_dict())
    assert torch.equal(ours(images())[0], plain(images())[0])


def test_copies_of_an_adapted_transformer_start_from_what_its_state_dict_leaves_out():
    """LoRA's state dict has the adapters alone."""
    net = dict(type='LoRAModel', module=dict(VIT, final_norm=False), rank=2, targets=[dict(type='qkv')])
    cfg = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=3, auxiliary=dict(type='man_mm.SLM', init='copy'))
    ours = build(cfg, 1, 'mmpretrain')
    plain = build(net, 2, 'mmpretrain')
    torch.nn.init.ones_(next(p for name, p in plain.named_parameters() if 'lora_up' in name and 'layers.3' in name))
    for start in (ours.init_weights, lambda: ours.load_state_dict(plain.state_dict(), strict=True)):
        start()
        for auxiliary in ours.auxiliaries:
            own, sources = dict(auxiliary.named_parameters()), dict(ours.backbone.named_parameters())
            mirrored = auxiliary.mirrored_keys()
            assert any('lora_' in key for key in mirrored) and any('ffn' in key for key in mirrored)
            assert all(torch.equal(own[key], sources[source]) for key, source in mirrored.items() if key in own)


@pytest.mark.parametrize('name', ['inner outputs', 'three outputs'])
def test_one_layer_stands_for_the_rest_up_to_each_output(name):
    described = unroll(vit(name))
    stages = list(dict.fromkeys(unit.stage for unit in described.units[1:]))
    assert [unit.stage for unit in described.first_of_remaining_stages(1)] == stages
    assert len(stages) == len(VITS[name]['out_indices'])


def test_a_feature_map_of_another_grid_than_the_transformer_was_built_for_is_refused():
    net = vit('featmap')
    described = unroll(net)
    x, taps = run_units(described.units, net, images(size=32))
    with pytest.raises(ValueError, match=r"out_type='featmap' was set up for \(4, 4\) patches, but an image has 4"):
        described.finish(net, x, taps)


@pytest.mark.parametrize(
    ('num_modules', 'ends'),
    [
        (2, ['layer2.1']),
        (4, ['layer1.2', 'layer2.1', 'layer3.0']),
        (8, ['layer1.0', 'layer1.2', 'layer1.4', 'layer2.1', 'layer2.3', 'layer3.0', 'layer3.2']),
        (16, ['stem', *(f'layer{s}.{i}' for s in (1, 2, 3) for i in range(5))][:-1]),
    ],
)
def test_cuts_of_resnet32_are_infopros(num_modules, ends):
    partition = resnet32('dgl', num_modules).backbone.partition
    assert [partition.units[partition.span(m)[1] - 1] for m in range(num_modules - 1)] == ends


def test_resnet110_has_55_units():
    model = make(classifier('dgl', 55, net_depth=110))
    assert model.backbone.num_modules == 55
    with pytest.raises(ValueError, match=r'num_modules=56 must be an integer from 1 .* to 55'):
        make(classifier('dgl', 56, net_depth=110))


def test_one_module_is_back_propagation_to_the_bit():
    local = Trainer(make(classifier('man', 1)))
    local.step(batch(8), batch(8, seed=1))
    reference = make(classifier())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01, momentum=0.9)
    reference.train()
    for data in (batch(8), batch(8, seed=1)):
        optimizer.zero_grad()
        data = reference.data_preprocessor(data, True)
        reference(**data, mode='loss')['loss'].backward()
        optimizer.step()
    assert_equal(dict(local.model.state_dict()), dict(reference.state_dict()))


@pytest.mark.parametrize(
    ('net', 'scope'),
    [
        (RESNET, 'mmdet'),
        (dict(type='ResNet', depth=50, base_channels=8, stem_channels=8), 'mmpretrain'),
        (dict(type='man_mm.CIFARResNet', depth=14), 'mmpretrain'),
        (VIT, 'mmpretrain'),
    ],
    ids=['mmdet', 'mmpretrain', 'cifar', 'vit'],
)
def test_shapes_are_those_of_a_forward_and_asking_leaves_the_net_alone(net, scope):
    backbone = build(net, scope=scope)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    described = unroll(backbone)
    shapes = unit_shapes(backbone, described, (64, 64))
    assert_equal(dict(backbone.state_dict()), before)
    assert backbone.training and not any(p.is_meta for p in backbone.parameters())
    x = images()
    for unit, shape in zip(described.units, shapes, strict=True):
        x = unit(backbone, x)
        assert tuple(x.shape[1:]) == shape


def test_ends_of_stages_that_are_no_outputs_are_pooled_taps():
    units = unroll(make(classifier()).backbone).units
    assert {unit.tap: unit.pooled for unit in units if unit.tap} == {'layer1': True, 'layer2': True, 'layer3': False}
    assert not any(unit.pooled for unit in unroll(build(RESNET)).units)


@pytest.mark.parametrize(
    ('num_units', 'cut_stage', 'chosen'),
    [
        (0, True, []),
        (1, True, ['layer1.2', 'layer2.0', 'layer3.0']),
        (2, True, ['layer1.2', 'layer1.3', 'layer2.0', 'layer2.1', 'layer3.0', 'layer3.1']),
        (9, False, [f'layer{s}.{i}' for s in (2, 3) for i in range(4)]),
    ],
)
def test_the_small_model_has_as_many_units_of_each_remaining_stage_as_asked(num_units, cut_stage, chosen):
    described = unroll(make(classifier(net_depth=26)).backbone)  # four units a stage, behind the stem
    units = described.first_of_remaining_stages(3, num_units, cut_stage)
    assert [unit.name for unit in units] == chosen
    last = {unit.stage: unit.name for unit in units}
    assert {unit.name: unit.tap for unit in units if unit.tap} == {name: stage for stage, name in last.items()}
