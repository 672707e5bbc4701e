"""DGL for detection: maps at every stride from the module's output alone, and a detector of its own."""

import pytest
import torch
from torch.nn import functional as F

from man_mm.local import run_units

from ..helpers.backbones import BACKBONES, NORMED, short
from ..helpers.detection import FPN, build, images, retinanet
from ..helpers.detectors import DETECTORS, detector
from ..helpers.training import Trainer, named, reached

pytestmark = pytest.mark.usefixtures('device')

DGL = dict(type='man_mm.DGLPyramid', channels=8)
MAPS = {name: (cfg, scope) for name, (cfg, scope) in BACKBONES.items() if scope == 'mmdet'}


def pyramids(num_modules=9, cfg=None, scope='mmdet', **options):
    auxiliary = {**DGL, 'neck': FPN, 'head': 'shared', **options}
    net = retinanet(None)['backbone'] if cfg is None else cfg
    whole = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=num_modules, auxiliary=auxiliary)
    return build(whole, scope=scope).train()


def maps_of(backbone, module):
    x, taps = run_units(backbone.unrolled.units[: backbone.partition.span(module)[1]], backbone.backbone, images())
    return x, taps, backbone.auxiliaries[module](x, taps)


@pytest.mark.parametrize('name', short(MAPS))
def test_maps_have_the_sizes_of_the_backbones_at_every_cut(name):
    backbone = pyramids(5, *MAPS[name], neck='shared')
    expected = [level.shape for level in backbone(images())]
    for module in range(backbone.num_modules - 1):
        assert [level.shape for level in maps_of(backbone, module)[2]] == expected


@pytest.mark.parametrize('size', [(50, 70), (33, 97)])
def test_maps_of_images_of_any_size_cover_those_of_the_backbone(size):
    backbone = pyramids(9, neck={**FPN, 'start_level': 0})
    x = torch.randn(1, 3, *size)
    for module in range(8):
        out, taps = run_units(backbone.unrolled.units[: backbone.partition.span(module)[1]], backbone.backbone, x)
        auxiliary = backbone.auxiliaries[module]
        levels = auxiliary(out, taps)
        for level, expected, steps in zip(levels, backbone(x), auxiliary.steps.values(), strict=True):
            more = level.shape[2] - expected.shape[2], level.shape[3] - expected.shape[3]
            assert all(0 <= px < 2 ** max(0, -steps) for px in more)
        auxiliary.neck(levels)


def test_a_larger_map_is_made_by_bilinear_upsampling_and_a_smaller_one_by_convolutions_of_stride_two():
    backbone = pyramids(9, neck={**FPN, 'start_level': 0})
    auxiliary = backbone.auxiliaries[4]  # the stem and stages 1 and 2: stride 8
    assert auxiliary.steps == {'layer1': -1, 'layer2': 0, 'layer3': 1, 'layer4': 2}
    x, _, levels = maps_of(backbone, 4)
    reduced = F.conv2d(x, auxiliary.reduce.weight, auxiliary.reduce.bias)
    first, second = auxiliary.halve
    half = F.conv2d(F.relu(reduced), first.weight, first.bias, stride=2, padding=1)
    quarter = F.conv2d(F.relu(half), second.weight, second.bias, stride=2, padding=1)
    double = F.interpolate(reduced, scale_factor=2, mode='bilinear')
    for level, expected in zip(levels, (double, reduced, half, quarter), strict=True):
        torch.testing.assert_close(level, expected)


def test_the_bank_is_not_read():
    backbone = pyramids(9)
    for module in range(8):
        x, _, levels = maps_of(backbone, module)
        got = backbone.auxiliaries[module](x, {})
        assert all(torch.equal(a, b) for a, b in zip(got, levels, strict=True))


def test_banked_levels_are_the_maps_of_the_stages_before_the_cut():
    backbone = pyramids(9, banked_levels=True)
    for module in range(8):
        _, taps, levels = maps_of(backbone, module)
        made = dict(zip(('layer1', 'layer2', 'layer3', 'layer4'), levels, strict=True))
        assert all(made[name] is tap for name, tap in taps.items())
        neck = backbone.auxiliaries[module].neck
        assert neck.in_channels == [level.shape[1] for level in levels]
        neck(levels)


@pytest.mark.parametrize(('num_modules', 'banked_levels'), [(2, True), (4, False), (9, True)])
def test_a_module_trains_itself_and_its_own_detector_only(num_modules, banked_levels):
    auxiliary = dict(DGL, neck=FPN, banked_levels=banked_levels)
    model = build(retinanet(num_modules, auxiliary=auxiliary))
    run = Trainer(model)
    plain, seen = run.optim_wrapper.local_backward, []

    def local_backward(losses, module):
        seen.append(reached(model.parse_losses(losses)[0], model))
        plain(losses, module)

    run.optim_wrapper.local_backward = local_backward
    run.step()
    for module, found in enumerate(seen):
        start, end = model.backbone.partition.span(module)
        own = {id(p) for unit in model.backbone.unrolled.units[start:end] for p in unit.parameters(model.backbone)}
        of_net = {name for name in found if not name.startswith(f'backbone.auxiliaries.{module}.')}
        assert {id(model.get_parameter(name)) for name in of_net} <= own
    assert run.gradients.keys() == named(model, '')


@pytest.mark.parametrize('name', ['retinanet', *DETECTORS])
def test_every_detector_trains_with_it(name):
    run = Trainer(build(detector(name, **DGL, head='private')))
    logs = run.step()
    assert all(value.isfinite() for value in logs.values())
    for module, auxiliary in enumerate(run.model.backbone.auxiliaries):
        layers = named(auxiliary, 'reduce', 'halve')
        assert {f'backbone.auxiliaries.{module}.{key}' for key in layers} <= run.gradients.keys()


def test_without_a_neck_the_maps_have_the_widths_of_the_backbone():
    backbone = pyramids(4, dict(type='ResNet', depth=18, base_channels=8, out_indices=(3,)), neck='shared')
    assert [level.shape[1:] for level in maps_of(backbone, 0)[2]] == [(64, 2, 2)]


def test_layers_are_drawn_afresh_with_the_models_seed():
    first, second = pyramids(4), pyramids(4)
    weights = [dict(net.auxiliaries.state_dict()) for net in (first, second)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    reduce = first.auxiliaries[0].reduce
    assert reduce.weight.std() > 0 and reduce.bias.any() and reduce.bias.abs().max() <= reduce.in_channels**-0.5


@pytest.mark.parametrize('size', [(400, 667), (250, 250), (600, 1000), (33, 97), (448, 448)])
def test_any_size_of_training_images_may_be_told(size):
    cfg = dict(
        type='man_mm.LocalBackbone',
        backbone=retinanet(None)['backbone'],
        num_modules=9,
        probe_size=size,
        auxiliary={**DGL, 'neck': FPN, 'head': 'shared'},
    )
    told, plain = build(cfg), pyramids(9)
    assert [a.steps for a in told.auxiliaries] == [a.steps for a in plain.auxiliaries]


def test_maps_that_the_neck_passes_over_are_not_resized():
    auxiliary = pyramids(9).auxiliaries[5]
    assert auxiliary.unread == ('layer1',)  # FPN starts at stage 2
    levels = auxiliary(torch.randn(1, 32, 4, 4), {})
    assert [level.shape[2] for level in levels] == [4, 8, 4, 2]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(channels=0), r'auxiliary\.channels=0 must be an integer, 1 or more'),
        (dict(channels='wide'), r"auxiliary\.channels='wide' must be"),
        (dict(banked_levels='yes'), r"auxiliary\.banked_levels='yes' must be True or False"),
        (dict(width=8), r"man_mm\.DGLPyramid has no key \{'width': 8\}"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        pyramids(4, **options)


def test_a_backbone_that_returns_no_maps_is_refused():
    vit = dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
        img_size=64,
        patch_size=16,
    )
    with pytest.raises(ValueError, match=r'stands in for the maps .* VisionTransformer does not return'):
        pyramids(2, vit, 'mmpretrain', neck='shared')


def test_banked_levels_of_a_backbone_that_normalises_its_outputs_are_refused():
    cfg, scope = NORMED['swin']
    with pytest.raises(ValueError, match=r'banked_levels=True: SwinTransformer returns its .* \[\'norm0\''):
        pyramids(4, cfg, scope, neck='shared', banked_levels=True)


@pytest.mark.parametrize('rule', ['DGL', 'PredSim', 'AugLocal'])
def test_a_rule_for_classifiers_says_so_on_a_detector(rule):
    auxiliary = dict(type=f'man_mm.{rule}', **({'depth': 1} if rule == 'AugLocal' else {}))
    cfg = retinanet(4)
    cfg['backbone']['auxiliary'] = auxiliary
    with pytest.raises(ValueError, match=rf'man_mm\.{rule} is a rule for classifiers; for detectors .*DGLPyramid'):
        build(cfg)
