"""A set-up that cannot train as asked is an error before the first weight changes, which names key, value and cure."""

import pytest
import torch
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from man_mm.engine import FeatureBankHook, LocalOptimWrapper

from ..helpers.detection import RESNET, batch, build, retinanet
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import Trainer, assert_equal, poison, trainer

LOCAL_HOOK = [dict(type='man_mm.FeatureBankHook')]
PLAIN_WRAPPER = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
LOCAL_WRAPPER = dict(PLAIN_WRAPPER, type='man_mm.LocalOptimWrapper')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco', num_images=2)


def refused(root, tmp_path, **changes):
    """The message with which a run is refused; no weight may have changed."""
    run = runner({**run_config(root, tmp_path, epochs=1), **changes})
    run.model.init_weights()
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.model.init_weights = lambda: None
    with pytest.raises(ValueError) as error:
        run.train()
    assert_equal(dict(run.model.state_dict()), before)
    return str(error.value)


@pytest.mark.parametrize('hooks', [LOCAL_HOOK, []], ids=['with hook', 'without hook'])
def test_a_local_backbone_with_a_plain_wrapper_is_refused(root, tmp_path, hooks):
    message = refused(root, tmp_path, optim_wrapper=PLAIN_WRAPPER, custom_hooks=hooks)
    assert 'optim_wrapper.type' in message and "must be 'man_mm.LocalOptimWrapper'" in message


@pytest.mark.parametrize('hooks', [LOCAL_HOOK, []], ids=['with hook', 'without hook'])
def test_a_local_wrapper_without_a_local_backbone_is_refused(root, tmp_path, hooks):
    message = refused(root, tmp_path, model=retinanet(None), optim_wrapper=LOCAL_WRAPPER, custom_hooks=hooks)
    assert 'RetinaNet has 0 backbones of type man_mm.LocalBackbone' in message
    assert "model.backbone=dict(type='man_mm.LocalBackbone'" in message


def test_a_missing_hook_is_refused(root, tmp_path):
    message = refused(root, tmp_path, custom_hooks=[])
    assert message.startswith("custom_hooks lacks dict(type='man_mm.FeatureBankHook')")


def test_one_module_needs_neither_wrapper_nor_hook(root, tmp_path):
    for name, hooks, wrapper in (('a', [], PLAIN_WRAPPER), ('b', LOCAL_HOOK, PLAIN_WRAPPER), ('c', [], LOCAL_WRAPPER)):
        cfg = run_config(root, tmp_path / name, model=retinanet(1), epochs=1)
        runner({**cfg, 'custom_hooks': hooks, 'optim_wrapper': wrapper}).train()
        assert (tmp_path / name / 'epoch_1.pth').exists()


@pytest.mark.parametrize(
    ('num_modules', 'options', 'message'),
    [
        (0, {}, r'num_modules=0 must be an integer from 1 .* to 9'),
        (10, {}, r'num_modules=10 must be an integer from 1 .* to 9'),
        (True, {}, r'num_modules=True must be an integer'),
        (2.0, {}, r'num_modules=2.0 must be an integer'),
        ('4', {}, r"num_modules='4' must be an integer"),
        (4, dict(partition='even'), r"partition='even' is unknown\. Choose one of \('uniform', 'memory'\)"),
        (2, dict(partition=['layer9.0']), r"partition names \['layer9.0'\].*'layer4.1'"),
        (4, dict(num_module=4), r"man_mm.LocalBackbone has no key {'num_module': 4}\. Its keys: .*'num_modules'"),
        (4, dict(auxiliary=None), r'auxiliary=None: with num_modules=4'),
        (4, dict(auxiliary='man_mm.SLM'), r"auxiliary='man_mm.SLM': with num_modules=4"),
        (4, dict(bank='no'), r"bank='no' must be True or False"),
    ],
)
def test_wrong_backbone_settings(num_modules, options, message):
    with pytest.raises(ValueError, match=message):
        build({**retinanet(None), 'backbone': {**retinanet(4)['backbone'], 'num_modules': num_modules, **options}})


@pytest.mark.parametrize(
    ('auxiliary', 'message'),
    [
        (dict(depth=2), r"man_mm.SLM has no key {'depth': 2}\. Its keys: .*'neck'"),
        (dict(init='zeros'), r"auxiliary.init='zeros' must be 'copy' or 'random'"),
        (dict(head='own'), r"auxiliary.head='own' must be 'shared', 'private', or a dict"),
        (dict(head=dict(type='RetinaHead')), r'auxiliary.head=.* must be .* a dict from the model'),
        (dict(head=None), r"auxiliary.head=None must be 'shared'"),
        (dict(neck='private'), r"auxiliary.neck='private' must be 'shared', the config of a neck"),
        (dict(neck=None), r"auxiliary.neck=None must be 'shared'"),
        (dict(shared_head_grad='max'), r"shared_head_grad='max' must be one of \('sum', 'mean', 'last'\)"),
    ],
    ids=str,
)
def test_wrong_auxiliary_settings(auxiliary, message):
    with pytest.raises(ValueError, match=message):
        build(retinanet(4, auxiliary=auxiliary))


@pytest.mark.parametrize('auxiliary', [dict(type='man_mm.SMALL'), dict(type='SLM')], ids=str)
def test_an_unknown_auxiliary_type_is_named(auxiliary):
    with pytest.raises(KeyError, match=auxiliary['type']):
        build(retinanet(4, auxiliary=auxiliary))


def test_a_head_that_the_model_lacks_is_named_with_its_parts():
    head = dict(roi_head=dict(type='StandardRoIHead'))
    with pytest.raises(ValueError, match=r"RetinaNet has no head \['roi_head'\].* Its parts: .*'bbox_head'"):
        trainer(4, auxiliary=dict(head=head))


def test_wrong_hook_and_wrapper_settings():
    with pytest.raises(ValueError, match=r"FeatureBankHook.log='all' must be one of \('terms', 'total'\)"):
        HOOKS.build(dict(type='man_mm.FeatureBankHook', log='all'))
    with pytest.raises(ValueError, match=r"man_mm.FeatureBankHook has no key {'logs': 'total'}\. Its keys: \['log'\]"):
        HOOKS.build(dict(type='man_mm.FeatureBankHook', logs='total'))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"LocalOptimWrapper has no key {'eager': True}\. Its keys: .*'eager_step'"):
        OPTIM_WRAPPERS.build(dict(type='man_mm.LocalOptimWrapper', optimizer=optimizer, eager=True))


def test_a_model_that_no_readout_serves_is_refused():
    class Host(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = build(retinanet(4)['backbone'])

    host = Host()
    wrapper = LocalOptimWrapper(optimizer=torch.optim.SGD(host.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r'model.type=Host has no readout.*mmdet.models.detectors.base.BaseDetector'):
        FeatureBankHook().bind(host, wrapper)


@pytest.mark.parametrize('policy', ['uniform', 'memory'])
def test_frozen_stages_train_nothing_and_the_rest_trains(policy):
    model = build(retinanet(4, dict(frozen_stages=1), partition=policy))
    assert model.backbone.num_modules == 4
    assert model.backbone.partition.bounds[1] > 3
    run = Trainer(model)
    run.step()
    assert run.gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not model.backbone.layer1[0].bn1.training
    assert build({**retinanet(1), 'backbone': {**retinanet(1)['backbone'], 'backbone': {**RESNET, 'frozen_stages': 4}}})


@pytest.mark.parametrize('eager', [False, True])
@pytest.mark.parametrize('at', [0, 2])
def test_a_local_loss_that_is_nan_stops_training_before_it_harms_a_weight(at, eager):
    run = trainer(4, eager_step=eager)
    poison(run.model.backbone.auxiliaries[at].neck)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    names = {0: r'module 0 \(stem .. layer1.0\)', 2: r'module 2 \(layer2.1 .. layer3.1\)'}
    with pytest.raises(FloatingPointError, match=f'local loss is infinite or NaN: .*cls of {names[at]}'):
        run.step(batch())
    after = run.model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    if not eager or at == 0:
        assert_equal(dict(after), before)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(eager_step='no'), r"optim_wrapper.eager_step='no' must be True or False"),
        (dict(clip_grad=35), r'optim_wrapper.clip_grad=35 must be a dict'),
        (dict(clip_grad=dict(max_norm=1, per_modul=True)), r"clip_grad has no key \['per_modul'\].*'per_module'"),
        (dict(clip_grad=dict(max_norm=1, per_module='no')), r"per_module='no' must be True or False"),
    ],
)
def test_wrong_wrapper_settings(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)
