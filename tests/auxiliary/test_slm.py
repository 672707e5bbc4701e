"""SLM: a downsized rest of the backbone, that returns what the backbone would."""

import pytest
import torch
from torch import nn

from man_mm.local import run_units

from ..helpers.backbones import BACKBONES, short, wrapped
from ..helpers.detection import build, images, local_backbone, retinanet


def features_of(backbone, module):
    """An auxiliary's features for the images, after the modules up to `module`."""
    x, taps = run_units(backbone.unrolled.units[: backbone.partition.span(module)[1]], backbone.backbone, images())
    return backbone.auxiliaries[module](x, taps), taps


@pytest.mark.parametrize('name', short(BACKBONES))
def test_features_have_the_shapes_of_the_backbones_at_every_cut(name):
    cfg, scope = BACKBONES[name]
    backbone = build(wrapped(cfg, 5), 0, scope).train()
    expected = [level.shape for level in backbone(images())]
    for module in range(backbone.num_modules - 1):
        got, taps = features_of(backbone, module)
        assert [level.shape for level in got] == expected
        outputs = dict(zip(backbone.unrolled.finish.taps, got, strict=True))
        earlier = [unit.tap for unit in backbone.unrolled.units if unit.tap in taps and not unit.pooled]
        assert all(outputs[name] is taps[name] for name in earlier)  # what lies before the cut passes through
        assert all(level.requires_grad for name, level in outputs.items() if name not in taps)


@pytest.mark.parametrize('num_modules', [2, 4, 9])
def test_one_unit_stands_for_each_remaining_stage(num_modules):
    backbone = build(local_backbone(num_modules=num_modules))
    for module, auxiliary in enumerate(backbone.auxiliaries):
        end = backbone.partition.span(module)[1]
        names = [unit.name for unit in backbone.unrolled.units[end:]]
        stages = sorted({name[:6] for name in names})
        first = [min(name for name in names if name.startswith(stage)) for stage in stages]
        assert [unit.name for unit in auxiliary.units] == first
        blocks = {'.'.join(key.split('.')[:2]) for key in auxiliary.layers.state_dict()}
        assert blocks == set(first)


def test_no_parameter_is_shared_between_auxiliaries_and_backbone():
    model = build(retinanet(9, auxiliary=dict(head='private')))
    parts = [model.backbone.backbone, *model.backbone.auxiliaries, model.neck, model.bbox_head]
    owned = [id(p) for part in parts for p in part.parameters()]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))


@pytest.mark.parametrize('init', ['copy', 'random'])
def test_units_start_from_the_weights_of_what_they_mirror_or_from_fresh_ones(init):
    backbone = build(local_backbone(auxiliary=dict(init=init)))
    source = backbone.backbone.state_dict()
    for auxiliary in backbone.auxiliaries:
        for key, value in auxiliary.layers.state_dict().items():
            if init == 'copy' or value.dim() == 4:  # a kernel
                assert torch.equal(value, source[key]) is (init == 'copy')
    norms = [m for m in backbone.auxiliaries.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all((norm.weight == 1).all() or init == 'copy' for norm in norms)


def test_a_neck_of_its_own_is_initialised_by_its_own_config():
    neck = build(local_backbone()).auxiliaries[0].neck
    assert all(
        (conv.bias == 0).all() and conv.weight.std() > 0 for conv in neck.modules() if isinstance(conv, nn.Conv2d)
    )


def test_a_shared_neck_adds_no_parameter():
    auxiliaries = build(retinanet(4, auxiliary=dict(neck='shared'))).backbone.auxiliaries
    assert all(auxiliary.neck is None for auxiliary in auxiliaries)
    assert all(name.startswith('layers.') for auxiliary in auxiliaries for name, _ in auxiliary.named_parameters())


def test_private_heads_exist_before_the_optimizer_looks_for_parameters():
    model = build(retinanet(4, auxiliary=dict(head='private')))
    for auxiliary in model.backbone.auxiliaries:
        assert list(auxiliary.heads) == ['bbox_head']
        assert auxiliary.heads.bbox_head.state_dict().keys() == model.bbox_head.state_dict().keys()
    twin = build(retinanet(4, auxiliary=dict(head='private')))
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}
    assert all(list(a.heads) == ['bbox_head'] for a in twin.backbone.auxiliaries)
