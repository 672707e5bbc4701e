"""SlimSLM: the bank's maps of earlier stages, and small convolutions in the place of later ones."""

import pytest
import torch
from torch import nn

from man_mm.analysis.module_rows import module_rows
from man_mm.local import run_units

from ..helpers.backbones import BACKBONES, NORMED, short
from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier
from ..helpers.classification import make as make_classifier
from ..helpers.detection import FPN, RETINA_HEAD, batch, build, images, retinanet
from ..helpers.detectors import DETECTORS, detector
from ..helpers.training import Trainer, assert_equal, auxiliary_indices, named, reached, trainer

pytestmark = pytest.mark.usefixtures('device')

SLIM = dict(type='man_mm.SlimSLM', channels=8)
STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
MAPS = {name: (cfg, scope) for name, (cfg, scope) in BACKBONES.items() if scope == 'mmdet'}
CLASSIFIERS = {name: (cfg, scope) for name, (cfg, scope) in BACKBONES.items() if scope == 'mmpretrain'}


def pyramids(num_modules=9, cfg=None, scope='mmdet', num_maps=4, share='none', **options):
    neck = dict(type='FPN', in_channels=[1] * num_maps, out_channels=8, num_outs=num_maps)
    auxiliary = {**SLIM, 'neck': neck, **options}
    net = retinanet(None)['backbone'] if cfg is None else cfg
    whole = dict(type='man_mm.LocalBackbone', backbone=net, num_modules=num_modules, auxiliary=auxiliary, share=share)
    return build(whole, scope=scope).train()


def maps_of(backbone, module, x=None):
    units = backbone.unrolled.units[: backbone.partition.span(module)[1]]
    x, taps = run_units(units, backbone.backbone, images() if x is None else x)
    return x, taps, backbone.local_modules[module].auxiliary(x, taps)


@pytest.mark.parametrize('name', short(MAPS))
def test_maps_have_the_sizes_of_the_backbones_at_every_cut(name):
    cfg, scope = MAPS[name]
    expected = build(cfg, scope=scope)(images())
    backbone = pyramids(5, cfg, scope, len(expected))
    for module in range(backbone.num_modules - 1):
        _, taps, maps = maps_of(backbone, module)
        auxiliary = backbone.local_modules[module].auxiliary
        assert len(maps) == len(expected)
        for level, whole, tap in zip(maps, expected, auxiliary.outputs, strict=True):
            assert level.shape == (whole.shape if tap in taps else (2, 8, *whole.shape[2:]))
        assert [conv.conv.in_channels for conv in auxiliary.neck.lateral_convs] == [level.shape[1] for level in maps]


@pytest.mark.parametrize('size', [(50, 70), (33, 97)])
def test_maps_of_images_of_any_size_are_those_of_the_backbone(size):
    backbone = pyramids()
    x = torch.randn(1, 3, *size)
    expected = [level.shape[2:] for level in backbone(x)]
    for module in range(8):
        assert [level.shape[2:] for level in maps_of(backbone, module, x)[2]] == expected


@pytest.mark.parametrize('num_modules', [2, 9])
def test_earlier_maps_come_from_the_bank_and_others_carry_the_graph(num_modules):
    model = build(retinanet(num_modules, auxiliary=SLIM))
    run, seen = Trainer(model), []
    for module in range(num_modules - 1):
        model.backbone.auxiliaries[module].register_forward_hook(lambda _, args, maps: seen.append((*args, maps)))
    run.step()
    assert len(seen) == num_modules - 1
    for module, (x, taps, maps) in enumerate(seen):
        start, end = model.backbone.partition.span(module)
        ended = [unit.tap for unit in model.backbone.unrolled.units[:end]]
        banked = [unit.tap for unit in model.backbone.unrolled.units[:start]]
        assert x.requires_grad
        for name, level in zip(STAGES, maps, strict=True):
            assert level.requires_grad == (name not in banked)
            assert (level is taps.get(name)) == (name in ended)


def test_a_stage_is_one_convolution_of_its_stride_also_where_the_cut_leaves_a_part_of_it():
    backbone = pyramids()
    assert [aux.made for aux in backbone.auxiliaries] == [STAGES[i:] for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    strides = [[layers[0].stride[0] for layers in aux.stages] for aux in backbone.auxiliaries]
    assert strides == [[1, 2, 2, 2], [1, 2, 2, 2], [2, 2, 2], [1, 2, 2], [2, 2], [1, 2], [2], [1]]
    assert all(layers[0].kernel_size == (3, 3) for aux in backbone.auxiliaries for layers in aux.stages)


def test_it_is_slim():
    rows = [
        sum(row.auxiliary_parameters for row in module_rows(build(retinanet(9, dict(depth=34), auxiliary)).backbone))
        for auxiliary in ({}, SLIM)
    ]
    assert rows[1] < rows[0] / 5


@pytest.mark.parametrize('num_modules', [2, 9])
def test_a_module_trains_itself_and_its_own_detector_only(num_modules):
    model = build(retinanet(num_modules, auxiliary=dict(SLIM, head='private')))
    run = Trainer(model)
    plain, seen = run.optim_wrapper.local_backward, []

    def local_backward(losses, module):
        seen.append(reached(model.parse_losses(losses)[0], model))
        plain(losses, module)

    run.optim_wrapper.local_backward = local_backward
    run.step()
    assert len(seen) == num_modules - 1
    for module, found in enumerate(seen):
        own = {id(p) for p in model.backbone.local_modules[module].parameters(model.backbone.backbone)}
        assert found and {id(model.get_parameter(name)) for name in found} <= own
        assert named(model, f'backbone.auxiliaries.{module}.reduce', f'backbone.auxiliaries.{module}.stages') <= found
    assert run.gradients.keys() == named(model, '')


@pytest.mark.parametrize('depth', [18, 50])
def test_every_unit_can_be_a_module(depth):
    cfg = dict(depth=depth)
    neck = {**FPN, 'in_channels': [1] * 4}
    model = build(retinanet(9 if depth == 18 else 17, cfg, dict(SLIM, neck=neck, head='private')))
    if depth == 50:
        model.neck = build({**FPN, 'in_channels': [32, 64, 128, 256]})
    run = Trainer(model)
    logs = run.step()
    assert all(value.isfinite() for value in logs.values())
    assert run.gradients.keys() == named(model, '')


@pytest.mark.parametrize('head', ['shared', 'private', dict(bbox_head=RETINA_HEAD)], ids=str)
def test_eager_steps_end_in_the_weights_of_ordinary_steps(head):
    runs = [trainer(3, auxiliary=dict(SLIM, head=head), lr=1e-3, eager_step=eager) for eager in (False, True)]
    for i in range(2):
        logs = [run.step(batch(first=i)) for run in runs]
        assert logs[0] == logs[1]
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


@pytest.mark.parametrize('name', ['retinanet', *DETECTORS])
def test_every_detector_trains_with_it(name):
    cfg = detector(name, **SLIM)
    cfg['backbone']['auxiliary']['neck'] = cfg['neck']  # it need not tell the widths
    run = Trainer(build(cfg))
    logs = run.step()
    assert all(value.isfinite() for value in logs.values())
    assert named(run.model.backbone, 'auxiliaries') == {
        name.removeprefix('backbone.') for name in run.gradients if '.auxiliaries.' in name
    }


def test_with_a_neck_and_a_head_of_another_width():
    slim = dict(neck={**FPN, 'out_channels': 4}, head=dict(bbox_head={**RETINA_HEAD, 'in_channels': 4}))
    run = trainer(4, auxiliary=dict(SLIM, channels=4, **slim))
    run.step()
    assert run.model.backbone.auxiliaries[0].heads.bbox_head.cls_convs[0].conv.in_channels == 4
    assert run.gradients.keys() == named(run.model, '')


# Classifiers


@pytest.mark.parametrize('num_modules', [2, 4, 7])
def test_a_classifier_trains_with_a_head_of_its_own(num_modules):
    cfg = classifier('dgl', num_modules, type='man_mm.SlimSLM', channels=6, head='private')
    run = Trainer(make_classifier(cfg))
    logs = run.step(labelled())
    assert logs['loss'].isfinite()
    assert [aux.heads.head.fc.in_features for aux in run.model.backbone.auxiliaries] == [6] * (num_modules - 1)
    assert run.gradients.keys() == named(run.model, '')


def test_a_classifier_of_any_family_is_served():
    served = {name for name, (cfg, scope) in CLASSIFIERS.items() if 'resnet' in name or 'regnet' in name}
    for name in served:
        cfg, scope = CLASSIFIERS[name]
        net = {**cfg, 'out_indices': (3,)}
        expected = build(net, scope=scope)(images())
        backbone = pyramids(3, net, scope, neck=dict(type='GlobalAveragePooling'), head='private')
        for module in range(2):
            _, _, maps = maps_of(backbone, module)
            assert [level.shape for level in maps] == [(2, 8, *expected[0].shape[2:])]
    assert len(served) > 2


# Weights


def test_layers_are_drawn_afresh_with_the_models_seed():
    first, second = pyramids(4), pyramids(4)
    weights = [dict(net.auxiliaries.state_dict()) for net in (first, second)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    auxiliary = first.auxiliaries[0]
    reduce = auxiliary.reduce
    assert reduce.weight.std() > 0 and reduce.bias.any() and reduce.bias.abs().max() <= reduce.in_channels**-0.5
    kernels = [layer.weight for layer in auxiliary.stages.modules() if isinstance(layer, nn.Conv2d)]
    assert not torch.equal(kernels[1], kernels[2])
    spread = (2 / (8 * 9)) ** 0.5  # He, fan-out
    assert all(0.8 * spread < kernel.std() < 1.2 * spread for kernel in kernels)


def test_modules_of_a_stage_may_share_one():
    backbone = pyramids(share='stage')
    assert auxiliary_indices(backbone) == (0, 1, 2, 3, 4, 5, 6, 7)  # the first of a stage halves, the second does not
    backbone = pyramids(17, dict(retinanet(None)['backbone'], depth=34), share='stage')
    assert len(backbone.auxiliaries) < 16
    for module in range(16):
        maps_of(backbone, module)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(channels=0), r'auxiliary\.channels=0 must be an integer, 1 or more'),
        (dict(channels=True), r'auxiliary\.channels=True must be'),
        (dict(channels='wide'), r"auxiliary\.channels='wide' must be"),
        (dict(width=8), r"man_mm\.SlimSLM has no key \{'width': 8\}"),
        (dict(neck='shared'), r'makes maps of 8 channels, which need a neck of its own: set auxiliary\.neck'),
        (dict(neck='shared', head='private'), r'which need a neck of its own'),
        (dict(neck=dict(type='GlobalAveragePooling')), r'which need a neck of its own'),
        (dict(head='own'), r"auxiliary\.head='own' must be 'shared', 'private'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        pyramids(4, **options)


@pytest.mark.parametrize('neck', ['shared', dict(type='GlobalAveragePooling')], ids=str)
def test_one_map_for_the_models_head_is_refused(neck):
    net = dict(retinanet(None)['backbone'], out_indices=(3,))
    with pytest.raises(ValueError, match=r"makes maps of 8 channels, which need auxiliary\.head='private'"):
        pyramids(2, net, neck=neck)


@pytest.mark.parametrize('name', NORMED)
def test_a_backbone_that_returns_no_maps_as_they_are_is_refused(name):
    cfg, scope = NORMED[name]
    kind = cfg['type'].removeprefix('mmpretrain.')
    with pytest.raises(ValueError, match=rf'which {kind} does not return as they are: man_mm\.SLM serves it'):
        pyramids(2, cfg, scope)
