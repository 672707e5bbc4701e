"""The command lines on configs with a `plan`, run as a user runs them."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from man_mm.analysis.planner import make_plan

from ..helpers.detection import TINY_FPN, TINY_HEAD, tiny_retinanet
from ..helpers.processes import python
from ..helpers.runs import make_coco, run_config, write_config

SLIM = dict(
    type='man_mm.SlimSLM',
    channels=4,
    neck={**TINY_FPN, 'out_channels': 4},
    head=dict(bbox_head={**TINY_HEAD, 'in_channels': 4, 'feat_channels': 4}),
)
FROZEN = dict(frozen_stages=0)  # four units train


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """`planned.py`, a config whose memory is below what back-propagation needs, and its data."""
    root = tmp_path_factory.mktemp('plan')
    model = tiny_retinanet(3, FROZEN, SLIM, probe_size=(256, 256))
    cfg = run_config(make_coco(root / 'data', num_images=2), root / 'run', model, epochs=1)
    cfg['log_level'] = 'INFO'
    bp = make_plan(Config(cfg), '1GiB').chosen.peak_bytes
    cfg['plan'] = dict(memory=bp - 1)
    test = dict(cfg['train_dataloader'], sampler=dict(type='DefaultSampler', shuffle=False))
    resize = dict(type='Resize', scale=(64, 64))
    test['dataset'] = dict(test['dataset'], test_mode=True)
    test['dataset']['pipeline'] = [*test['dataset']['pipeline'][:1], resize, dict(type='PackDetInputs')]
    evaluator = dict(type='CocoMetric', ann_file=f'{root}/data/train.json')
    cfg.update(test_dataloader=test, test_evaluator=evaluator, test_cfg=dict(type='TestLoop'))
    write_config(cfg, root / 'planned.py')
    return root


@pytest.fixture(scope='module')
def trained(folder):
    result = python('train.py', folder / 'planned.py')
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def dumped(folder):
    return Config.fromfile(folder / 'run/planned.py')


def test_training_plans_first_says_so_in_the_log_and_leaves_a_plain_config(folder, trained):
    net = dumped(folder).model.backbone
    assert net.num_modules in (1, 2, 4) and 'plan' not in dumped(folder)
    logs = [path.read_text() for path in (folder / 'run').glob('*/*.log')]
    lines = [line for line in logs[0].splitlines() if 'plan: K=' in line]
    assert len(lines) == 1 and f'K={net.num_modules} ' in lines[0] and 'the operations of back-propagation' in lines[0]
    assert (folder / 'run/epoch_1.pth').exists()


def test_a_resumed_run_has_the_plan_of_the_first_one(folder, trained):
    before = dumped(folder)
    result = python('train.py', folder / 'planned.py', '--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert result.returncode == 0, result.stderr[-2000:]
    assert (folder / 'run/epoch_2.pth').exists()
    assert 'its auxiliaries are left out' not in result.stdout + result.stderr
    after = dumped(folder)
    for key in ('model', 'optim_wrapper', 'custom_hooks'):
        assert before[key] == after[key]


def test_a_config_that_asks_for_a_plan_can_be_tested(folder, trained):
    checkpoint = folder / 'run/epoch_1.pth'
    result = python('test.py', folder / 'planned.py', checkpoint, '--work-dir', folder / 'test')
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stdout + result.stderr
    assert 'bbox_mAP' in said
    if any('.auxiliaries.' in key for key in torch.load(checkpoint)['state_dict']):
        assert "num_modules=1 needs no auxiliaries; the checkpoint's are left out" in said
    assert 'unexpected key' not in said and 'another num_modules' not in said


def test_a_written_plan_is_a_config_for_any_program(folder):
    out, rows = folder / 'plain.py', folder / 'rows.json'
    budget = Config.fromfile(folder / 'planned.py').plan.memory
    result = python('analysis_tools/plan.py', folder / 'planned.py', '--batch', 2, '--out', out, '--json', rows)
    assert result.returncode == 0, result.stderr
    plain = Config.fromfile(out)
    assert 'plan' not in plain
    assert result.stdout.splitlines()[-1].startswith(f'K={plain.model.backbone.num_modules} ')
    written = json.loads(rows.read_text())
    chosen = [row for row in written['rows'] if row['chosen']]
    assert len(chosen) == 1 and chosen[0]['num_modules'] == plain.model.backbone.num_modules
    assert chosen[0]['peak_mib'] * 2**20 <= budget == written['budget_bytes']
    assert len([line for line in result.stderr.splitlines() if ' MiB, ' in line]) == len(written['rows'])
    assert not [row for row in written['rows'] if row['fits'] and row['gflops'] < chosen[0]['gflops']]


def test_batch_size_and_budget_of_the_command_line_count(folder):
    options = ('--budget', '1GiB', '--batch', 3, '--size', 64, 96, '--device', 'cuda', '--out', folder / 'large.py')
    result = python('analysis_tools/plan.py', folder / 'planned.py', *options)
    assert result.returncode == 0, result.stderr
    assert '(batch 3, 64 x 96 px, 1 settings estimated)' in result.stdout
    plain = Config.fromfile(folder / 'large.py')
    assert plain.train_dataloader.batch_size == 3 and plain.model.backbone.num_modules == 1


@pytest.mark.long
def test_nothing_is_trained_and_written_where_nothing_fits(folder):
    lines = (
        ('analysis_tools/plan.py', '--out', folder / 'none.py'),
        ('train.py', '--work-dir', folder / 'none'),
    )
    changed = ('plan.memory=1MiB', 'model.backbone.backbone.frozen_stages=2')
    for tool, *options in lines:
        result = python(tool, folder / 'planned.py', *options, '--cfg-options', *changed)
        assert result.returncode == 1
        assert 'nothing fits in 1.0 MiB: the least peak found is' in result.stderr.splitlines()[-1]
    assert not (folder / 'none.py').exists() and not (folder / 'none').exists()


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('plan.memory=lots', "plan.memory='lots' must be a number of bytes"),
        ('plan.budget=6GiB', 'must be a dict of the memory of a training step'),
        ('model.backbone.probe_size=None', 'set model.backbone.probe_size'),
    ],
)
def test_a_wrong_setting_is_named_before_training(folder, option, message):
    result = python('train.py', folder / 'planned.py', '--work-dir', folder / 'wrong', '--cfg-options', option)
    assert result.returncode == 1 and message in result.stderr.strip().splitlines()[-1]


def test_tables_show_what_the_plan_chooses(folder):
    plenty = ('--cfg-options', 'plan.memory=1GiB')  # one estimate tells that back-propagation fits
    partition = python('analysis_tools/show_partition.py', folder / 'planned.py', *plenty)
    assert 'K = 1' in partition.stdout, partition.stderr[-2000:]
    size = ('--size', 256, '--json', folder / 'rows.json')
    result = python('analysis_tools/measure.py', folder / 'planned.py', '--estimate', *size, *plenty)
    assert result.returncode == 0, result.stderr[-2000:]
    (row,) = json.loads((folder / 'rows.json').read_text())['rows']
    assert [module['module'] for module in row['modules']] == ['main']


def test_other_programs_say_who_makes_plans(folder):
    cfg = Config.fromfile(folder / 'planned.py')
    cfg.work_dir = str(folder / 'other')
    runner = Runner.from_cfg(cfg)
    with pytest.raises(
        ValueError, match=r"plan={'memory': \d+} is read by .* tools/analysis_tools/plan\.py CONFIG --out"
    ):
        runner.train()
