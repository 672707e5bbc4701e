"""The largest batch fits, and one more image does not."""

import json
import random
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from man_mm.analysis.planner import Setting, largest, largest_batches, list_settings
from man_mm.analysis.planner.candidates import Planner
from man_mm.analysis.planner.largest import MOST_IMAGES, largest_batch, worth_showing

from ..helpers.classification import classifier
from ..helpers.detection import tiny_retinanet
from ..helpers.processes import ROOT
from ..helpers.steps import step_config

SIZE = (64, 64)


def plain():
    """A config of plain training, of four units."""
    return step_config(classifier(net_depth=8), 'mmpretrain')


def local():
    return step_config(classifier('dgl', net_depth=8), 'mmpretrain')


@pytest.mark.parametrize('seed', range(20))
def test_the_search_finds_what_counting_finds_in_a_few_estimates(seed):
    random.seed(seed)
    for _ in range(20):
        amounts = [
            (random.randrange(1000), random.choice([0, 1, 3, 10, 50, 200])) for _ in range(random.randrange(1, 5))
        ]
        asked, budget = set(), random.randrange(5000)

        def peak(images, amounts=amounts, asked=asked):
            asked.add(images)
            return max(fixed + each * images for fixed, each in amounts)

        found = largest_batch(peak, budget)
        assert len(asked) < 40 and max(asked) <= max(8 * found, 8)
        assert found == 0 or peak(found) <= budget
        assert found == MOST_IMAGES or peak(found + 1) > budget


def test_what_is_shown_are_the_exact_ways_and_every_number_of_modules():
    settings = list_settings(9, ['uniform', 'memory'], True, True, [True, True])
    assert [str(setting) for setting in worth_showing(settings)] == [
        'K=1 (back-propagation)',
        'K=1 (back-propagation), blocks and heads recomputed',
        'K=2 memory, eager step, heads recomputed',
        'K=2 memory, eager step, blocks and heads recomputed',
        'K=4 memory, eager step, heads recomputed',
        'K=4 memory, eager step, blocks and heads recomputed',
        'K=8 memory, eager step, heads recomputed',
        'K=9 uniform, eager step, heads recomputed',
    ]
    only_whole = list_settings(1, ['uniform'], True, False, [False, False])
    assert worth_showing(only_whole) == [Setting(1)]


@pytest.fixture
def two_settings(monkeypatch):
    """Back-propagation, and two modules."""
    monkeypatch.setattr(largest, 'worth_showing', lambda settings: [settings[0], settings[2]])


def test_batches_of_every_budget_fit_and_larger_ones_do_not(two_settings):
    cfg, estimates = local(), []
    rows = list(largest_batches(cfg, ['1kB', '8MiB'], SIZE, report=estimates.append))
    assert [row.setting for row in rows] == [Setting(1), Setting(2, 'uniform', True)]
    planner = Planner(cfg)
    planner.prepare(SIZE, 'cpu')
    for row in rows:
        (small, none), (budget, images) = row.images.items()
        assert none == 0 and row.peak_bytes[small] > small == 1000  # two images: DGL normalises over the batch
        assert row.peak_bytes[budget] <= budget == 8 * 2**20
        assert planner.estimate(row.setting, estimates.append, images + 1).peak_bytes > budget
    assert rows[1].images[budget] > rows[0].images[budget] > 0


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Run plan.py in `tmp_path`, where plain.py and local.py are configs."""
    plain().dump(tmp_path / 'plain.py')
    local().dump(tmp_path / 'local.py')
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['plan.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/analysis_tools/plan.py'), run_name='__main__')

    return call


def test_a_plain_config_is_planned_with_what_is_chosen_for_it(plan, capsys):
    plan('plain.py', '--lean', '--budget', '1GiB', '--size', *SIZE, '--batch', 2, '--out', 'out.py')
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith('K=1 (back-propagation) fits in 1024.0 MiB')
    assert said.err.startswith('local learning: man_mm.SLM')
    assert Config.fromfile('out.py').model.backbone.type == 'man_mm.LocalBackbone'


def test_the_table_of_batches_is_printed_and_written(plan, two_settings, capsys):
    plan('local.py', '--largest', '--budget', '1kB', '--size', *SIZE, '--json', 'new/rows.json', '--amp')
    out = capsys.readouterr().out
    assert 'images in 1000 B' in out and 'K=1 (back-propagation)' in out
    written = json.loads(Path('new/rows.json').read_text())
    assert written['amp'] and [row['num_modules'] for row in written['rows']] == [1, 2]
    for row in written['rows']:
        (batch,) = row['batches']
        assert batch['images'] == 0 and batch['budget_bytes'] == 1000 and batch['peak_mib'] > 0.001


def test_settings_that_are_known_are_written_when_a_later_one_fails(plan, two_settings, monkeypatch):
    estimate = Planner.estimate

    def failing(planner, setting, *arguments):
        if setting.num_modules > 1:
            raise RuntimeError('no estimate')
        return estimate(planner, setting, *arguments)

    monkeypatch.setattr(Planner, 'estimate', failing)
    with pytest.raises(RuntimeError, match='no estimate'):
        plan('local.py', '--largest', '--budget', '1kB', '--size', *SIZE, '--json', 'rows.json')
    assert [row['num_modules'] for row in json.loads(Path('rows.json').read_text())['rows']] == [1]


WRONG = {
    'a batch': (('local.py', '--largest', '--batch', 2, '--budget', '1GiB'), 'leave out --batch'),
    'a file': (('local.py', '--largest', '--out', 'x.py', '--budget', '1GiB'), 'leave out --out'),
    'two budgets': (('local.py', '--budget', '1GiB,2GiB'), '--budget 1GiB,2GiB must be one amount'),
}


@pytest.mark.parametrize('case', WRONG)
def test_options_that_contradict_are_named(plan, capsys, case):
    arguments, message = WRONG[case]
    with pytest.raises(SystemExit):
        plan(*arguments)
    assert message in capsys.readouterr().err


def test_back_propagation_of_a_plain_config_recomputes_nothing(plan):
    """The lean form recomputes heads; what a plan compares with does not."""
    step_config(tiny_retinanet(None)).dump('detector.py')
    plan('detector.py', '--lean', '--budget', '1GiB', '--size', *SIZE, '--out', 'out.py')
    cfg = Config.fromfile('out.py')
    assert cfg.model.backbone.num_modules == 1 and 'eager_step' not in cfg.optim_wrapper
    assert [hook.type for hook in cfg.custom_hooks] == ['man_mm.FeatureBankHook']


def test_lean_is_a_form_for_plain_configs(plan):
    with pytest.raises(SystemExit) as stop:
        plan('local.py', '--lean', '--budget', '1GiB')
    assert 'local.py has a LocalBackbone: leave it out' in stop.value.code


UNFIT = {
    'no budget': (('local.py',), 'give the memory of a step, e.g. --budget 11GiB'),
    'a bad unit': (('local.py', '--budget', '6XB'), "budget='6XB' must be a number of bytes"),
    'no model': (('data.py', '--budget', '1GiB'), 'data.py has no model and no optim_wrapper'),
    'no file': (('none.py', '--budget', '1GiB'), 'none.py'),
    'no size': (('plain.py', '--budget', '1GiB'), 'give it to plan.py by --size'),
    'many optimizers': (('gan.py', '--budget', '1GiB', '--amp'), 'mixed precision is chosen for one optimizer'),
}


@pytest.mark.parametrize('case', UNFIT)
def test_what_cannot_be_planned_is_said_in_a_sentence(plan, case):
    Config(dict(train_dataloader=dict(batch_size=2))).dump('data.py')
    gan = plain()
    gan.optim_wrapper = dict(generator=dict(optimizer=dict(type='SGD', lr=0.1)))
    gan.dump('gan.py')
    arguments, message = UNFIT[case]
    with pytest.raises(SystemExit) as stop:
        plan(*arguments)
    assert message in stop.value.code
