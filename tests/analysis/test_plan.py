"""A plan fits, when it is measured, and nothing that fits takes fewer operations."""

import random

import pytest
from mmengine.config import Config

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.cost import step_cost
from man_mm.analysis.planner import (
    Estimate,
    Setting,
    fastest,
    list_settings,
    make_plan,
    parse_bytes,
    search,
    without_plan,
)
from man_mm.analysis.planner import plan as planning
from man_mm.analysis.step import TrainStep, build_model
from man_mm.readout.proposals import given_proposals

from ..helpers.classification import classifier
from ..helpers.detection import SMALL_FPN, SMALL_HEAD, TINY_FPN, TINY_HEAD, retinanet, small_retinanet, tiny_retinanet
from ..helpers.detectors import detector
from ..helpers.restoration import editor

SIZE = (256, 256)
NOTHING, EVERYTHING = '1B', '1TiB'
POLICIES = {'uniform', 'memory'}


def slim(neck, head):
    """An auxiliary of half the width."""
    own = dict(bbox_head={**head, 'in_channels': 4, 'feat_channels': 4})
    return dict(type='man_mm.SlimSLM', channels=4, neck={**neck, 'out_channels': 4}, head=own)


SLIM = slim(TINY_FPN, TINY_HEAD)


def config(model=None, budget=EVERYTHING, hooks=(), scope='mmdet', **wrapper):
    """A config with a `plan`: by default, of a RetinaNet of which 4 of 5 units train."""
    model = model or tiny_retinanet(3, dict(frozen_stages=0), SLIM, probe_size=SIZE)
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    return Config(
        dict(
            default_scope=scope,
            model=model,
            plan=dict(memory=budget),
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(type='man_mm.LocalOptimWrapper', optimizer=optimizer, **wrapper),
            custom_hooks=[dict(type='man_mm.FeatureBankHook'), *hooks],
        )
    )


def config_of_many_choices():
    """Of a RetinaNet of which 4 of 7 units train, and policies cut differently."""
    return config(small_retinanet(3, dict(frozen_stages=1), slim(SMALL_FPN, SMALL_HEAD), probe_size=SIZE))


@pytest.fixture(scope='module')
def table():
    """Every setting of a config of many choices, with its estimate."""
    found = {}

    def estimate_all(settings, estimate, budget):
        found.update({setting: estimate(setting) for setting in settings})
        return list(found.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, 'search', estimate_all)
        make_plan(config_of_many_choices())
    return found


@pytest.fixture(scope='module')
def bp():
    """The estimate of back-propagation."""
    return make_plan(config()).chosen


@pytest.fixture(scope='module')
def plan(bp):
    """Made for less than back-propagation needs."""
    return make_plan(config(budget=bp.peak_bytes * 17 // 20))


def peaks(table):
    return sorted({estimate.peak_bytes for estimate in table.values()})


def measured(cfg, size=SIZE):
    return step_cost(TrainStep(cfg), synthetic_batch(cfg, cfg.train_dataloader.batch_size, size))


def test_a_budget_of_what_back_propagation_needs_chooses_it_after_one_estimate(bp):
    roomy = make_plan(config(budget=bp.peak_bytes))
    assert roomy.chosen == bp and roomy.estimates == (bp,) and bp.setting == Setting(1)
    assert roomy.cfg.model.backbone.num_modules == 1


def test_what_is_chosen_fits_when_it_is_measured(bp, plan):
    assert plan.chosen.setting != Setting(1)
    cost = measured(plan.cfg)
    assert cost.peak_bytes == plan.chosen.peak_bytes <= plan.budget < bp.peak_bytes
    assert cost.flops == plan.chosen.flops


@pytest.mark.long
def test_nothing_that_fits_takes_fewer_operations_than_the_chosen_one(table):
    settings, whole = list(table), list(table.values())
    assert whole[0].setting == Setting(1) and peaks(table)[-1] == whole[0].peak_bytes
    assert len({*settings}) == 4 + 4 * (2 + 1)  # K = 1; 2 by two policies; 4
    chosen = set()
    for budget in peaks(table):
        made = search(settings, table.__getitem__, budget)
        best = fastest(made, settings, budget)
        fitting = [estimate for estimate in whole if estimate.peak_bytes <= budget]
        assert best.flops == min(estimate.flops for estimate in fitting)
        assert len(made) < len(settings)
        chosen.add(best.setting)
    assert {s.num_modules for s in chosen} >= {1, 2, 4} and {s.partition for s in chosen} == {None, *POLICIES}
    assert {s.blocks for s in chosen} == {s.heads for s in chosen} == {False, True}


@pytest.mark.long
def test_a_plan_is_the_same_every_time(table):
    plan = make_plan(config_of_many_choices(), table[Setting(1)].peak_bytes * 9 // 10)
    again = search(list(table), table.__getitem__, plan.budget)
    assert list(plan.estimates) == again and plan.chosen == fastest(again, list(table), plan.budget)


def landscape(seed):
    """Estimates at random, in which what `search` takes for granted holds."""
    draw = random.Random(seed)
    settings = list_settings(17, ['uniform', 'memory'], True, True, [True, True])
    flops = {setting: draw.uniform(0, 1) for setting in settings}
    rising = {s: sum(flops[o] for o in settings if s.is_no_faster_than(o)) for s in settings}
    bytes_of = {(s.num_modules, s.partition, s.blocks): draw.randint(100, 1000) for s in settings}
    peak = {
        s: bytes_of[s.num_modules, s.partition, s.blocks] + (0 if s.heads else draw.randint(0, 300)) for s in settings
    }
    return settings, {s: Estimate(s, peak[s], {}, rising[s]) for s in settings}


@pytest.mark.parametrize('seed', range(20))
def test_the_search_finds_in_any_landscape_what_a_look_at_all_finds(seed):
    settings, table = landscape(seed)
    for budget in range(50, 1300, 50):
        asked = []
        made = search(settings, lambda s, asked=asked: asked.append(s) or table[s], budget)
        assert fastest(made, settings, budget) == fastest(list(table.values()), settings, budget)
        assert len(asked) == len(set(asked)) <= len(settings)
        if all(estimate.peak_bytes > budget for estimate in made):
            assert min(e.peak_bytes for e in made) == min(e.peak_bytes for e in table.values())
            assert len(made) <= len(settings) / 2 + 1


@pytest.mark.long
def test_an_impossible_budget_says_how_far_off_the_least_setting_is_and_what_it_consists_of(table):
    plan = make_plan(config_of_many_choices(), '1MiB')
    least = min(plan.estimates, key=lambda estimate: estimate.peak_bytes)
    assert least.peak_bytes == peaks(table)[0]
    assert plan.chosen is None and plan.cfg is None
    mib = least.peak_bytes / 2**20
    assert f'nothing fits in 1.0 MiB: the least peak found is {mib:.1f} MiB, {mib - 1:.1f} MiB too much' in str(plan)
    assert f'with {least.setting}' in str(plan)
    assert f'auxiliary {least.split["auxiliary"] / 2**20:.1f} MiB' in str(plan) and 'bank' in str(plan)


def test_the_planned_config_is_plain_and_the_given_one_is_left_alone(plan):
    cfg = config(budget=NOTHING)
    before = cfg.to_dict()
    make_plan(cfg, EVERYTHING)
    assert cfg.to_dict() == before and 'plan' not in plan.cfg
    planned, given = plan.cfg.to_dict(), before
    assert isinstance(planned['model']['backbone'].pop('num_modules'), int)
    assert planned['model']['backbone'].pop('partition', 'uniform') in POLICIES
    assert planned['optim_wrapper'].pop('eager_step') is True
    planned['model']['backbone']['backbone'].pop('with_cp', None)
    del given['model']['backbone']['num_modules'], given['plan']
    assert planned.pop('custom_hooks')[: len(given['custom_hooks'])] == given.pop('custom_hooks')
    assert planned == given


def last_setting(cfg, monkeypatch, is_estimated=True):
    """All settings of a config, and the plan if only the last one is looked at, or taken without a look."""
    settings = []

    def search_one(those, estimate, budget):
        settings.extend(those)
        return [estimate(those[-1]) if is_estimated else Estimate(those[-1], 1, {}, 1)]

    with monkeypatch.context() as patch:
        patch.setattr(planning, 'search', search_one)
        plan = make_plan(cfg)
    return settings, plan


@pytest.mark.parametrize(
    ('wrapper', 'is_eager'),
    [
        (dict(accumulative_counts=2), False),
        (dict(clip_grad=dict(max_norm=1.0)), False),
        (dict(eager_step=False), False),
        (dict(clip_grad=dict(max_norm=1.0, per_module=True)), True),
    ],
    ids=['accumulation', 'global clip', 'turned off', 'clip per module'],
)
def test_modules_are_stepped_at_once_only_where_that_is_legal_and_left_open(wrapper, is_eager, monkeypatch):
    model = classifier('man', 2, net_depth=8)
    settings, _ = last_setting(config(model, scope='mmpretrain', **wrapper), monkeypatch, is_estimated=False)
    assert {setting.num_modules for setting in settings} == {1, 2, 4}
    assert all(setting.eager == (is_eager and setting.num_modules > 1) for setting in settings)


def test_what_the_config_sets_is_kept(monkeypatch):
    net = dict(with_cp=False, frozen_stages=1)  # two units train
    model = tiny_retinanet(3, net, SLIM, partition='memory', probe_size=SIZE)
    functions = ['bbox_head.forward_single', 'backbone.auxiliaries.*.neck']
    hook = dict(type='man_mm.ActivationCheckpointHook', functions=functions)
    cfg = config(model, EVERYTHING, [hook], eager_step=True)
    bp = make_plan(cfg).cfg
    assert bp.custom_hooks[-1].functions == functions[:1]  # without modules there are no auxiliaries
    settings, plan = last_setting(cfg, monkeypatch)
    assert {setting.partition for setting in settings} == {None, 'memory'}
    assert not any(setting.blocks or setting.eager for setting in settings)
    assert plan.chosen.setting == Setting(2, 'memory', heads=True)
    assert plan.cfg.optim_wrapper.eager_step and not plan.cfg.model.backbone.backbone.with_cp
    assert plan.cfg.custom_hooks[-1].functions == [
        *functions,
        'neck',
        'bbox_head.loss_by_feat_single',
        'backbone.auxiliaries.*.heads.bbox_head.forward_single',
        'backbone.auxiliaries.*.heads.bbox_head.loss_by_feat_single',
    ]


def test_memory_of_every_iteration_counts_where_they_differ():
    """A gradient that accumulates is there while the next forward runs."""
    once, twice = (make_plan(config(accumulative_counts=counts)) for counts in (1, 2))
    assert twice.chosen.peak_bytes == measured(twice.cfg).peak_bytes > once.chosen.peak_bytes


@pytest.mark.parametrize(
    ('model', 'scope'),
    [
        (classifier('man', 2, net_depth=8, backbone_partition='uniform'), 'mmpretrain'),
        (editor(num_modules=2, probe_size=(16, 16)), 'mmagic'),
    ],
    ids=['classification', 'super-resolution'],
)
def test_other_tasks_are_planned_too(model, scope):
    bp = make_plan(config(model, EVERYTHING, scope=scope)).chosen
    plan = make_plan(config(model, bp.peak_bytes - 1, scope=scope))
    least = plan.chosen.peak_bytes
    assert least < bp.peak_bytes
    assert least - 64 < measured(plan.cfg, plan.size).peak_bytes <= least


def test_where_nothing_fits_there_is_no_config_but_the_least_that_was_found():
    model = classifier('man', 2, net_depth=8, backbone_partition='uniform')
    model['backbone']['backbone']['with_cp'] = False
    plan = make_plan(config(model, NOTHING, scope='mmpretrain'))
    least = min(plan.estimates, key=lambda estimate: estimate.peak_bytes)
    assert plan.chosen is None and plan.cfg is None
    assert f'nothing fits in 0.0 MiB: the least peak found is {least.peak_bytes / 2**20:.1f} MiB' in str(plan)


def test_a_two_stage_detector_is_planned_too():
    model = detector('faster_rcnn')
    model['backbone']['probe_size'] = (64, 64)
    plan = make_plan(config(model))
    assert plan.chosen.setting == Setting(1)
    with given_proposals():
        assert plan.chosen.peak_bytes == measured(plan.cfg, plan.size).peak_bytes


@pytest.mark.parametrize(
    ('text', 'number'),
    [
        ('6GiB', 6 * 2**30),
        ('500MiB', 500 * 2**20),
        ('2.5GB', 2_500_000_000),
        (' 3 kB ', 3000),
        ('77', 77),
        (1e6, 10**6),
    ],
)
def test_amounts_of_memory(text, number):
    assert parse_bytes('key', text) == number


@pytest.mark.parametrize('text', ['6 gigs', 'GiB', '', '-1GiB', '6Gb', 0, -5, True, None, float('inf'), [6], '0MiB'])
def test_a_wrong_amount_names_key_value_and_units(text):
    with pytest.raises(ValueError, match=r'plan\.memory=') as error:
        parse_bytes('plan.memory', text)
    assert repr(text) in str(error.value) and 'MiB' in str(error.value)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(budget=None), r'plan\.memory=None must be a number of bytes'),
        (dict(budget='much'), r"plan\.memory='much' must be a number of bytes"),
        (dict(probe_size=None), 'a plan needs the size of the training images: set model.backbone.probe_size'),
        (dict(partition=['stem']), r"model.backbone.partition=\['stem'\] names cuts, which a plan chooses"),
    ],
    ids=['no budget', 'bad budget', 'no size', 'own cuts'],
)
def test_what_a_plan_lacks_is_named(options, message):
    net = {key: value for key, value in options.items() if key == 'partition'}
    if 'probe_size' not in options:
        net['probe_size'] = SIZE
    with pytest.raises(ValueError, match=message):
        make_plan(config(retinanet(2, **net), options.get('budget', EVERYTHING)))


def test_a_config_without_a_local_backbone_is_refused():
    cfg = config()
    cfg.model = retinanet(None)
    with pytest.raises(ValueError, match=r"model.backbone or model.generator must be of type 'man_mm.LocalBackbone'"):
        make_plan(cfg)


@pytest.mark.parametrize('plan', [dict(), dict(budget='6GiB'), dict(memory='6GiB', size=3), '6GiB', None], ids=str)
def test_a_plan_of_other_keys_is_refused(plan):
    cfg = config()
    cfg.plan = plan
    with pytest.raises(
        ValueError, match=r"plan=.* must be a dict of the memory of a training step: dict\(memory='6GiB'"
    ):
        make_plan(cfg)


def test_for_a_test_the_model_is_built_without_auxiliaries():
    model = build_model(without_plan(config(budget=None)))
    assert model.backbone.num_modules == 1 and len(model.backbone.auxiliaries) == 0


def test_settings_read_as_they_are():
    assert str(Setting(1)) == 'K=1 (back-propagation)'
    assert str(Setting(4, 'memory', True, True, True)) == 'K=4 memory, eager step, blocks and heads recomputed'
