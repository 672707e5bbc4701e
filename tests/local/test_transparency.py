"""Outside of training a LocalBackbone is the backbone it wraps: outputs, state-dict keys, checkpoints."""

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint
from mmengine.runner.checkpoint import load_state_dict as mmengine_load

from man_mm.local import unroll

from ..helpers.backbones import ALL, NORMED, check_mirrors, short, wrapped
from ..helpers.detection import batch, build, images, local_backbone, retinanet
from ..helpers.training import Trainer, assert_equal

MIRRORED = ['resnet18', 'resnetv1d', 'dcn', 'plugins', 'group_norm', 'pretrain_resnet18', 'mobilenet', *NORMED]


def pair(name, num_modules, **auxiliary):
    """A plain backbone, and one of ours with other weights."""
    cfg, scope = ALL[name]
    return build(cfg, 0, scope), build(wrapped(cfg, num_modules, **auxiliary), 1, scope)


def own_keys(module):
    """State dict without auxiliaries."""
    return {key: value for key, value in module.state_dict().items() if 'auxiliaries.' not in key}


WITHOUT_MODULES = ('resnet18', 'regnet_frozen', 'pretrain_mobilenet', 'convnext', 'pretrain_swin_padded')
"""A backbone of each family that is wrapped with K = 1 too; for the others this is long."""
OF_ONE = [name if name in WITHOUT_MODULES else pytest.param(name, marks=pytest.mark.long) for name in ALL]


def check_it_is_plain(plain, ours):
    """Outputs, keys and running statistics are the plain backbone's."""
    assert list(own_keys(ours)) == list(plain.state_dict())
    ours.load_state_dict(plain.state_dict(), strict=True)
    for mode in (False, True):  # in training mode too: nobody asked for local losses
        plain.train(mode), ours.train(mode)
        expected, got = plain(images()), ours(images())
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert_equal(own_keys(ours), dict(plain.state_dict()))  # running statistics moved alike


@pytest.mark.parametrize('name', short(ALL))
def test_outputs_and_keys_of_a_module_for_every_unit_are_the_plain_backbones(name):
    cfg, scope = ALL[name]
    plain = build(cfg, 0, scope)
    trains = [any(p.requires_grad for p in unit.parameters(plain)) for unit in unroll(plain).units]
    most = len(trains)
    ours = build(wrapped(cfg, most), 1, scope)
    assert ours.num_modules == sum(trains)
    assert len(ours.auxiliaries) == ours.num_modules - 1
    check_it_is_plain(plain, ours)
    with pytest.raises(ValueError, match=f'num_modules={most + 1} .* to {most},'):
        build(wrapped(cfg, most + 1), 0, scope)


@pytest.mark.parametrize('name', OF_ONE)
def test_outputs_and_keys_of_one_module_are_the_plain_backbones(name):
    check_it_is_plain(*pair(name, 1))


@pytest.mark.parametrize('name', MIRRORED)
def test_auxiliaries_start_from_the_loaded_weights(name):
    plain, ours = pair(name, 5)
    ours.load_state_dict(plain.state_dict())
    check_mirrors(ours, plain.state_dict())


def test_a_random_start_stays_random_when_weights_are_loaded():
    plain, ours = pair('resnet18', 5, init='random')
    before = {key: value.clone() for key, value in ours.auxiliaries.state_dict().items()}
    missing = ours.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all('auxiliaries' in key for key in missing)
    assert_equal(dict(ours.auxiliaries.state_dict()), before)
    weights = [p for name, p in ours.auxiliaries.named_parameters() if name.endswith('conv1.weight')]
    assert weights and all(p.std() > 0 for p in weights)
    assert not torch.equal(weights[0], ours.backbone.layer1[1].conv1.weight)


def test_a_checkpoint_of_ours_keeps_its_auxiliaries():
    plain, ours = pair('resnet18', 5)
    torch.nn.init.normal_(ours.auxiliaries[0].layers.layer2.get_submodule('0').conv1.weight)
    other = pair('resnet18', 5)[1]
    other.load_state_dict(ours.state_dict(), strict=True)
    assert_equal(dict(other.state_dict()), dict(ours.state_dict()))
    with pytest.raises(RuntimeError, match='auxiliaries'):
        plain.load_state_dict(ours.state_dict(), strict=True)


def test_a_misspelled_key_is_still_an_error():
    plain, ours = pair('resnet18', 5)
    state = dict(plain.state_dict(), layer9=torch.zeros(1))
    with pytest.raises(RuntimeError, match='layer9'):
        ours.load_state_dict(state, strict=True)
    state = dict(plain.state_dict())
    state.pop('conv1.weight')
    with pytest.raises(RuntimeError, match=r'conv1\.weight'):
        ours.load_state_dict(state, strict=True)


@pytest.fixture
def detectors():
    return build(retinanet(None), seed=0), build(retinanet(4, auxiliary=dict(head='private')), seed=1)


def test_whole_detectors_exchange_checkpoints_through_torch(detectors):
    plain, ours = detectors
    result = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith('backbone.auxiliaries.') for key in result.missing_keys)
    assert all('.neck.' in key or '.heads.' in key for key in result.missing_keys)
    assert_equal(own_keys(ours), dict(plain.state_dict()))
    check_mirrors(ours.backbone, {k[9:]: v for k, v in plain.state_dict().items() if k.startswith('backbone.')})
    fresh = build(retinanet(None), seed=2)
    fresh.load_state_dict(own_keys(ours), strict=True)
    assert_equal(dict(fresh.state_dict()), dict(plain.state_dict()))


def test_whole_detectors_exchange_checkpoints_through_mmengine(detectors, tmp_path):
    plain, ours = detectors
    torch.save(dict(state_dict=get_state_dict(plain)), tmp_path / 'plain.pth')
    load_checkpoint(ours, str(tmp_path / 'plain.pth'))
    assert_equal({k: v for k, v in get_state_dict(ours).items() if 'auxiliaries' not in k}, dict(plain.state_dict()))
    check_mirrors(ours.backbone, {k[9:]: v for k, v in plain.state_dict().items() if k.startswith('backbone.')})
    assert get_state_dict(ours).keys() == ours.state_dict().keys()
    torch.save(
        dict(state_dict={k: v for k, v in get_state_dict(ours).items() if 'auxiliaries' not in k}), tmp_path / 'o.pth'
    )
    fresh = build(retinanet(None), seed=2)
    load_checkpoint(fresh, str(tmp_path / 'o.pth'), strict=True)
    assert_equal(dict(fresh.state_dict()), dict(plain.state_dict()))
    again = build(retinanet(4, auxiliary=dict(head='private')), seed=3)
    mmengine_load(again, get_state_dict(ours), strict=True)
    assert_equal(dict(again.state_dict()), dict(ours.state_dict()))


@pytest.mark.parametrize('inside', ['backbone', 'wrapper', 'detector', 'key'])
def test_pretrained_weights_reach_backbone_and_auxiliaries(inside, tmp_path):
    source = build(retinanet(None), seed=5)
    state = source.state_dict() if inside == 'detector' else source.backbone.state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'pretrained.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'pretrained.pth'))
    cfg = retinanet(4)
    if inside == 'key':
        cfg['backbone']['pretrained'] = init['checkpoint']  # as models of MMSegmentation do
    else:
        dict(backbone=cfg['backbone']['backbone'], wrapper=cfg['backbone'], detector=cfg)[inside]['init_cfg'] = init
    ours = build(cfg)
    assert_equal(own_keys(ours.backbone), dict(source.backbone.state_dict()))
    check_mirrors(ours.backbone, source.backbone.state_dict())


def test_predictions_are_the_plain_detectors(detectors):
    plain, ours = detectors
    ours.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        expected, got = plain.eval().test_step(batch()), ours.eval().test_step(batch())
    assert sum(len(a.pred_instances) for a in expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


def test_attributes_of_the_backbone_are_reachable():
    ours = build(local_backbone())
    assert ours.layer1 is ours.backbone.layer1 and ours.depth == 18
    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = ours.no_such_thing


def test_attributes_of_the_backbone_are_written_through_the_wrapper():
    detector = build(retinanet(4, dict(frozen_stages=1))).train()
    ours, net = detector.backbone, detector.backbone.backbone
    ours.frozen_stages, ours.norm_eval = -1, False  # as a hook unfreezes a plain one
    for parameter in ours.parameters():
        parameter.requires_grad = True
    ours.train()
    assert (net.frozen_stages, net.norm_eval) == (-1, False) and net.bn1.training
    run = Trainer(detector)
    run.step()
    assert run.gradients['backbone.backbone.conv1.weight'].any()
    ours.tail_chunks, ours.note = 2, 'new'  # its own, and nobody's
    assert not hasattr(net, 'tail_chunks') and not hasattr(net, 'note')


@pytest.mark.parametrize('num_modules', [1, 4])
def test_an_init_cfg_written_for_the_plain_backbone_acts_on_the_wrapped_one(num_modules):
    starts = dict(type='Constant', val=0.25, layer='Conv2d')
    for option, start in (({}, 0.25), (dict(init_cfg=dict(val=0.75)), 0.75), (dict(init_cfg=None), None)):
        ours = build(local_backbone(dict(init_cfg=starts), num_modules, **option))
        weight = ours.conv1.weight
        assert (weight == start).all() if start else weight.std() > 0


def test_a_key_of_the_wrapped_backbone_is_an_error_that_says_where_it_stands():
    with pytest.raises(ValueError, match=r"no key {'depth': 34}.* stand one level lower: model.backbone.backbone.KEY"):
        build(local_backbone(depth=34))


def test_mirrored_weights_are_those_that_the_backbone_resizes_when_it_loads():
    plain, ours = pair('swin', 5)
    wider = {
        key: torch.cat([value, value]) if key.endswith('relative_position_bias_table') else value
        for key, value in plain.state_dict().items()
    }

    def halve(state_dict, prefix, *_):
        for key in [key for key in state_dict if key.endswith('relative_position_bias_table')]:
            state_dict[key] = state_dict[key].chunk(2)[0]

    ours.backbone._register_load_state_dict_pre_hook(halve)
    for load in (lambda: ours.load_state_dict(wider, strict=True), lambda: mmengine_load(ours, wider, strict=True)):
        ours.init_weights()
        load()
        check_mirrors(ours, plain.state_dict())
