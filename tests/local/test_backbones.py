"""RegNet, MobileNetV2, ConvNeXt and Swin in local training: random numbers, gradients, small models, refusals."""

import copy
import pickle
from functools import cache

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from man_mm.local import run_units, unroll

from ..helpers.backbones import (
    CLASSIFIED,
    CONVNEXT,
    DETECTED,
    MAPS,
    NORMED,
    PRETRAIN_SWIN,
    REFUSED,
    SWIN,
    wrapped,
)
from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier, make
from ..helpers.detection import FPN, batch, build, images, retinanet
from ..helpers.training import SpyWrapper, Trainer, local_parameters, named, reached

DROPPING = {
    'convnext': (dict(MAPS, drop_path_rate=0.5), 'mmdet'),
    'swin': (dict(SWIN, drop_path_rate=0.5, drop_rate=0.3, attn_drop_rate=0.3), 'mmdet'),
    'pretrain_swin': (dict(PRETRAIN_SWIN, drop_path_rate=0.5, drop_rate=0.3, pad_small_map=True), 'mmpretrain'),
}


def detector(name, is_local=True):
    """A RetinaNet on the backbone, cut behind every unit up to eight, with nothing shared; or the plain one."""
    net, widths = DETECTED[name]
    neck = dict(FPN, in_channels=widths, start_level=0)
    most = min(len(unroll(build(net)).units), 8)
    backbone = wrapped(net, most, neck=neck, head='private') if is_local else net
    return build(dict(retinanet(None), backbone=backbone, neck=neck))


def with_loss_graphs(model, data):
    """The Trainer after one step, with the names of the parameters that the loss of each module reaches, and it."""
    losses = {}

    def before(loss, module):
        losses[module] = reached(loss, model), loss.detach()

    run = Trainer(model, SpyWrapper, before=before)
    run.step(data)
    return run, losses


@pytest.mark.parametrize('name', DROPPING)
def test_units_in_training_draw_the_random_numbers_of_the_forward_at_any_size(name):
    net = build(DROPPING[name][0], 0, DROPPING[name][1])
    net.train()
    described = unroll(net)
    x = images()[:, :, :60, :52]
    torch.manual_seed(1)
    expected = net(x)
    torch.manual_seed(1)
    got = described.finish(net, *run_units(described.units, net, x))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@cache
def stepped(name):
    """The plain detector, and one with its weights after a step, for all tests that look at it."""
    plain, ours = detector(name, is_local=False), detector(name)
    ours.load_state_dict(plain.state_dict(), strict=False)
    return plain, *with_loss_graphs(ours, batch())


@pytest.mark.parametrize('name', DETECTED)
def test_every_parameter_is_trained_by_the_loss_of_its_module_alone(name):
    _, run, losses = stepped(name)
    model = run.model
    assert set(run.gradients) == named(model, '')
    assert list(losses) == [*range(model.backbone.num_modules - 1), None]
    for module, (parameters, _) in losses.items():
        if module is not None:
            assert parameters == local_parameters(model, module)
    norms = (f'backbone.backbone.{path}.' for path in model.backbone.unrolled.tail)
    rest = named(model, 'neck.', 'bbox_head.', *norms)  # the main loss trains the norms of the outputs
    assert losses[None][0] == local_parameters(model, model.backbone.num_modules - 1) | rest


@pytest.mark.parametrize('name', DETECTED)
def test_the_main_loss_is_the_plain_detectors(name):
    plain, _, losses = stepped(name)
    plain.train()
    expected = plain.parse_losses(plain(**plain.data_preprocessor(batch(), True), mode='loss'))[0]
    assert torch.equal(losses[None][1], expected)


@pytest.mark.parametrize('name', NORMED)
def test_features_at_every_cut_have_the_shapes_of_the_backbones_and_norms_of_their_own(name):
    cfg, scope = NORMED[name]
    most = len(unroll(build(cfg, 0, scope)).units)
    ours = build(wrapped(cfg, most), 0, scope)
    ours.train()
    expected = [level.shape for level in ours(images())]
    for module, slm in enumerate(ours.auxiliaries):
        with torch.no_grad():
            x, taps = run_units(ours.unrolled.units[: ours.partition.span(module)[1]], ours.backbone, images())
        features = slm(x, taps)
        assert [level.shape for level in features] == expected
        sum(level.sum() for level in features).backward()
        assert all(p.grad is not None for p in slm.parameters() if p.requires_grad)
    assert all(p.grad is None for p in ours.backbone.parameters())


@pytest.mark.parametrize(('cfg', 'between'), [(MAPS, 'downsample_layers.2'), (SWIN, 'stages.1.downsample')])
def test_what_leads_to_a_stage_belongs_to_its_first_block(cfg, between):
    units = {unit.name: unit for unit in unroll(build(cfg)).units}
    first = next(unit for unit in units.values() if unit.stage == 'stages.2')
    assert first.layers == (between, first.name)
    assert [unit.tap for unit in units.values() if unit.tap] == [f'stages.{i}' for i in range(4)]


@pytest.mark.parametrize('name', ['convnext', 'swin'])
def test_copies_of_a_wrapped_backbone_are_whole(name):
    ours = build(wrapped(NORMED[name][0], 3), 0, NORMED[name][1]).eval()
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        got = twin.unrolled.finish(twin.backbone, *run_units(twin.unrolled.units[:7], twin.backbone, images()))
        assert all(torch.equal(a, b) for a, b in zip(got, ours(images()), strict=True))


@pytest.mark.parametrize('rule', ['man', 'dgl'])
@pytest.mark.parametrize('name', CLASSIFIED)
def test_classifiers_train_every_parameter(name, rule):
    net, neck, width = CLASSIFIED[name]
    cfg = classifier(rule, 5, size=64)
    cfg['backbone']['backbone'] = net
    run = Trainer(make(dict(cfg, neck=neck, head={**cfg['head'], 'in_channels': width})))
    run.step(labelled(size=64))
    assert set(run.gradients) == named(run.model, '')


@pytest.mark.parametrize('name', REFUSED)
def test_a_variant_that_is_not_described_is_refused(name):
    cfg, scope, message = REFUSED[name]
    with DefaultScope.overwrite_default_scope(scope), pytest.raises(ValueError, match=message):
        unroll(MODELS.build(cfg))


@pytest.mark.parametrize('net', [dict(MAPS, with_cp=True), dict(SWIN, with_cp=True)], ids=['convnext', 'swin'])
def test_every_module_is_checkpointed_where_the_switch_lies_in_the_blocks(net, monkeypatch):
    seen = []
    plain = torch.utils.checkpoint.CheckpointFunction.forward
    monkeypatch.setattr(
        torch.utils.checkpoint.CheckpointFunction,
        'forward',
        staticmethod(lambda ctx, run, keep, x: (seen.append(x.requires_grad), plain(ctx, run, keep, x))[1]),
    )
    neck = dict(FPN, in_channels=[8, 16, 32, 64], start_level=1)
    model = build(dict(retinanet(None), backbone=wrapped(net, 7, neck=neck), neck=neck))
    Trainer(model).step(batch())
    assert len(seen) > 7 and all(seen)


def test_without_units_a_norm_behind_the_maps_must_be_left_out_or_replaced():
    cfg = classifier('man', 5, size=64, bank_vectors=False, units_per_stage=0)
    cfg['backbone']['backbone'] = dict(type='ConvNeXt', **CONVNEXT)
    cfg.update(neck=dict(type='GlobalAveragePooling'), head={**cfg['head'], 'in_channels': 64})
    with pytest.raises(ValueError, match=r"auxiliary\.units_per_stage=0: \['norm3'\] after the last unit reads 64"):
        make(cfg)


@pytest.mark.parametrize(
    ('net', 'message'),
    [
        (dict(type='ConvNeXt', gap_before_final_norm=False, **CONVNEXT), r"does not know \['norm3'\]"),
        (PRETRAIN_SWIN, r"does not know \['norm3'\]"),
    ],
    ids=['convnext', 'swin'],
)
def test_auglocal_refuses_what_is_more_than_layers_in_turn(net, message):
    cfg = classifier('auglocal', 3, size=64)
    cfg['backbone']['backbone'] = net
    with pytest.raises(ValueError, match=message):
        make(dict(cfg, head={**cfg['head'], 'in_channels': 64}))
