"""Units of an SLM that follow those that they mirror, or stay as they start: without gradients of their own."""

import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import nn

from man_mm.analysis.module_rows import module_rows
from man_mm.engine import LocalAmpOptimWrapper

from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier, make
from ..helpers.detection import batch, build, retinanet
from ..helpers.precision import mixed_precision_for_tests
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import Trainer, assert_equal, named, reached, trainer

QUARTER = dict(follow='ema', follow_momentum=0.25)
"""A power of two, so that rounding is the same however the average is computed."""
FROZEN = dict(init='random', trainable=False)
NORMS = dict(norm_eval=False, zero_init_residual=False)
ways = pytest.mark.parametrize('auxiliary', [dict(follow='ema'), FROZEN, dict(trainable=False)], ids=str)


def units(model):
    """Names of all parameters of SLM units, and the names of the mirrored ones."""
    names = [name for name, _ in model.named_parameters() if '.layers.' in name]
    return {name: 'backbone.backbone.' + name.partition('.layers.')[2] for name in names}


def values(model, names):
    found = dict(model.named_parameters())
    return {name: found[name].detach().clone() for name in names}


def averaged(before, mirrored, share=0.25):
    return {name: value + share * (mirrored[name] - value) for name, value in before.items()}


def mirrored_values(model):
    followed = units(model)
    found = values(model, followed.values())
    return {own: found[source] for own, source in followed.items()}


@ways
def test_no_gradient_and_no_optimizer_state_is_kept_for_them(auxiliary):
    model = build(retinanet(4, auxiliary=auxiliary))
    run = Trainer(model, momentum=0.9)
    run.step()
    assert units(model) and not units(model).keys() & run.gradients.keys()
    assert run.gradients.keys() == named(model, '')
    own = dict(model.named_parameters())
    assert not any(own[name] in run.optimizer.state for name in units(model))
    assert any('.neck.' in name and 'auxiliaries' in name for name in run.gradients)


@pytest.mark.parametrize('recomputed', [False, True])
def test_gradients_reach_the_module_through_them_as_through_units_that_train(recomputed):
    options = dict(backbone=dict(NORMS, with_cp=recomputed))
    trained, followed, fixed = (
        trainer(4, auxiliary=auxiliary, **options) for auxiliary in ({}, dict(follow='ema'), dict(trainable=False))
    )
    for run in (trained, followed, fixed):
        run.step()
    expected = {name: grad for name, grad in trained.gradients.items() if '.layers.' not in name}
    assert 'backbone.backbone.conv1.weight' in expected
    assert_equal(followed.gradients, expected)
    assert_equal(fixed.gradients, expected)


def test_the_local_loss_reaches_no_weight_of_them_and_the_whole_module():
    model = build(retinanet(2, auxiliary=dict(follow='ema'))).train()
    backbone = model.backbone
    module = backbone.local_modules[0]
    x, taps = module.run(backbone.backbone, model.data_preprocessor(batch(), True)['inputs'])
    loss = sum(level.sum() for level in module.auxiliary(x, taps) if level.requires_grad)
    own = {p for unit in module.units for p in unit.parameters(backbone.backbone)}
    assert reached(loss, model) == {name for name, p in model.named_parameters() if p in own}


@pytest.mark.parametrize(('eager_step', 'share'), [(False, 'stage'), (True, 'none')])
def test_after_n_steps_they_are_the_exponential_mean_of_the_mirrored_weights(eager_step, share):
    model = build(retinanet(9, auxiliary=dict(QUARTER, cut_stage=False), share=share))
    run = Trainer(model, eager_step=eager_step)
    expected = mirrored_values(model)
    assert_equal(values(model, units(model)), expected)
    for step in range(2):
        run.step(batch(first=step))
        expected = averaged(expected, mirrored_values(model))
    assert_equal(values(model, units(model)), expected)
    assert any(not torch.equal(value, mirrored_values(model)[name]) for name, value in expected.items())


def test_they_move_once_an_optimizer_step():
    model = build(retinanet(4, auxiliary=QUARTER))
    run = Trainer(model, accumulative_counts=3)
    start = values(model, units(model))
    run.step(batch(first=0), batch(first=1))
    assert_equal(values(model, units(model)), start)
    run.step(batch(first=2))
    assert_equal(values(model, units(model)), averaged(start, mirrored_values(model)))


def test_eager_steps_end_in_the_weights_of_ordinary_steps():
    runs = [trainer(4, auxiliary=dict(QUARTER), eager_step=eager) for eager in (False, True)]
    for run in runs:
        run.step()
        run.step(batch(first=1))
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_they_follow_in_mixed_precision():
    with mixed_precision_for_tests():
        model = build(retinanet(4, auxiliary=QUARTER))
        run = Trainer(model, LocalAmpOptimWrapper, dtype='bfloat16', loss_scale=dict(init_scale=2.0**10))
        start = values(model, units(model))
        run.step()
    assert_equal(values(model, units(model)), averaged(start, mirrored_values(model)))
    assert any(not torch.equal(value, values(model, units(model))[name]) for name, value in start.items())


@pytest.mark.parametrize(('optimizer', 'paramwise'), [('SGD', None), ('AdamW', dict(norm_decay_mult=0.0))], ids=str)
def test_weight_decay_does_not_touch_them(optimizer, paramwise):
    for auxiliary in (QUARTER, FROZEN):
        model = build(retinanet(3, auxiliary=auxiliary))
        run = Trainer(model)
        cfg = dict(type='man_mm.LocalOptimWrapper', optimizer=dict(type=optimizer, lr=1e-3, weight_decay=0.5))
        run.optim_wrapper = build_optim_wrapper(model, {**cfg, 'paramwise_cfg': paramwise})
        run.hook.bind(model, run.optim_wrapper)
        expected = values(model, units(model))
        for step in range(2):
            run.step(batch(first=step))
            if auxiliary is QUARTER:
                expected = averaged(expected, mirrored_values(model))
        assert_equal(values(model, units(model)), expected)


@ways
def test_running_statistics_are_their_own(auxiliary):
    run = trainer(4, NORMS, auxiliary)
    run.step()
    theirs = dict(run.model.backbone.backbone.named_buffers())
    means = [
        (name.partition('.layers.')[2], buffer)
        for name, buffer in run.model.backbone.auxiliaries[:2].named_buffers()  # the third one's see what these see
        if name.endswith('running_mean') and '.layers.layer4.' in name
    ]
    assert means and all(buffer.any() and not torch.equal(buffer, theirs[name]) for name, buffer in means)


def test_classifiers_follow_and_their_classifier_alone_trains():
    model = make(classifier('man', **QUARTER))
    run = Trainer(model)
    start = values(model, units(model))
    run.step(labelled(4))
    assert_equal(values(model, units(model)), averaged(start, mirrored_values(model)))
    auxiliaries = {name for name in run.gradients if 'auxiliaries' in name}
    assert auxiliaries and all('.heads.' in name for name in auxiliaries)


def test_a_plain_checkpoint_is_where_they_start():
    plain, ours = build(retinanet(None), seed=3), build(retinanet(4, auxiliary=QUARTER))
    ours.load_state_dict(plain.state_dict(), strict=False)
    assert_equal(values(ours, units(ours)), mirrored_values(ours))
    assert_equal(dict(ours.backbone.backbone.named_parameters()), dict(plain.backbone.named_parameters()))


def test_their_keys_are_those_of_copied_units():
    copied, followed = (build(retinanet(4, auxiliary=auxiliary)).state_dict() for auxiliary in ({}, QUARTER))
    assert_equal(dict(copied), dict(followed))


def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=4)

    def config(name, **options):
        model = retinanet(4, NORMS, dict(QUARTER))
        return run_config(root, tmp_path / name, model=model, epochs=2, **options)

    runner(config('whole')).train()
    runner(config('resumed', load_from=str(tmp_path / 'whole/epoch_1.pth'), resume=True)).train()
    ours, theirs = (torch.load(tmp_path / f'{name}/epoch_2.pth') for name in ('resumed', 'whole'))
    assert_equal(ours['state_dict'], theirs['state_dict'])
    key = 'backbone.auxiliaries.0.layers.layer4.0.conv1.weight'
    states = [theirs['state_dict'][key], torch.load(tmp_path / 'whole/epoch_1.pth')['state_dict'][key]]
    assert not torch.equal(*states)
    assert ours['optimizer']['state'].keys() == theirs['optimizer']['state'].keys()


def test_a_copy_and_a_converted_model_follow_their_own_backbone():
    model = build(retinanet(4, NORMS, QUARTER))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    other = revert_sync_batchnorm(converted)  # SyncBN itself computes on accelerators only
    runs = [Trainer(model), Trainer(other)]
    for run in runs:
        run.step()
    assert_equal(*(values(run.model, units(run.model)) for run in runs))
    assert named(model, '') == named(other, '')


def test_module_rows_count_them_apart():
    copied, followed = (module_rows(build(retinanet(4, auxiliary=auxiliary)).backbone) for auxiliary in ({}, QUARTER))
    for ours, theirs in zip(followed[:-1], copied[:-1], strict=True):
        assert ours.fixed_parameters > 0 and theirs.fixed_parameters == 0
        assert ours.auxiliary_parameters + ours.fixed_parameters == theirs.auxiliary_parameters


@pytest.mark.parametrize(
    ('auxiliary', 'words'),
    [
        (dict(follow='mean'), "auxiliary.follow='mean' must be None or 'ema'"),
        (dict(follow='ema', init='random'), "auxiliary.follow='ema' needs auxiliary.init='copy'"),
        (dict(follow='ema', follow_momentum=0), 'auxiliary.follow_momentum=0 must be a number, more than 0'),
        (dict(follow='ema', follow_momentum=True), 'auxiliary.follow_momentum=True must be a number'),
        (dict(follow_momentum=0.1), "auxiliary.follow_momentum=0.1 needs auxiliary.follow='ema'"),
        (dict(trainable='no'), "auxiliary.trainable='no' must be True or False"),
    ],
    ids=str,
)
def test_a_wrong_key_is_named(auxiliary, words):
    with pytest.raises(ValueError, match=words):
        build(retinanet(4, auxiliary=auxiliary))


@pytest.mark.parametrize('auxiliary', [dict(follow='ema'), dict(trainable=False)], ids=str)
def test_without_units_the_switch_is_one_warning(auxiliary, monkeypatch):
    messages = []
    monkeypatch.setattr('man_mm.auxiliary.slm.print_log', lambda message, **_: messages.append(message))
    make(classifier('man', units_per_stage=0, **auxiliary))
    (message,) = messages
    assert message.endswith('has nothing to act on: SLMs have no units.')
