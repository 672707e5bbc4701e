"""tools/analysis_tools/measure.py: what it prints, writes and refuses."""

import json
import re
import runpy
import sys

import pytest
import torch

from man_mm.analysis.measure import POINTS
from man_mm.analysis.memory import KINDS

from ..helpers.classification import classifier
from ..helpers.detection import retinanet, tiny_retinanet
from ..helpers.processes import ROOT, python
from ..helpers.runs import make_coco, run_config, write_config
from ..helpers.steps import step_config

MEMORY = {
    'config',
    'batch',
    'size',
    'peak_mib',
    *(f'{kind}_mib' for kind in KINDS),
    'gflops',
    'modules',
    'timeline_mib',
}
TIME = {'step_s', 'step_s_range', 'step_ratio', 'predict_images_per_s'}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run measure.py in `tmp_path`, where bp.py, man.py and others are configs; returns the JSON that it wrote."""
    configs = dict(
        bp=step_config(tiny_retinanet(None)),
        man=step_config(tiny_retinanet(3)),
        cls=step_config(classifier('dgl'), 'mmpretrain'),
        amp=step_config(tiny_retinanet(None), loss_scale='dynamic'),
        other=step_config(retinanet(None), 'mmseg'),
    )
    configs['amp'].optim_wrapper.type = 'AmpOptimWrapper'
    for name, cfg in configs.items():
        cfg.dump(tmp_path / f'{name}.py')
    data = run_config(make_coco(tmp_path / 'coco'), tmp_path / 'run', tiny_retinanet(3))
    data['train_dataloader']['dataset']['pipeline'].insert(2, dict(type='Resize', scale=(64, 64)))
    write_config(data, tmp_path / 'data.py')
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['measure.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/analysis_tools/measure.py'), run_name='__main__')
        path = tmp_path / 'out/rows.json'
        return json.loads(path.read_text()) if path.exists() else None

    return call


SMALL = ('--size', 64, '--json', 'out/rows.json')


def test_an_estimate_is_printed_and_written(run, capsys):
    report = run('bp.py', 'man.py', '--estimate', '--batch', 3, '--size', 64, 96, '--json', 'out/rows.json')
    assert report['device'] == 'cpu (estimate)' and report['torch'] == torch.__version__
    bp, man = report['rows']
    assert [row['config'] for row in report['rows']] == ['bp.py', 'man.py']
    for row in report['rows']:
        assert row.keys() == MEMORY
        assert row['batch'] == 3 and row['size'] == [64, 96]
        assert len(row['timeline_mib']) == POINTS
        assert max(row['timeline_mib']) == row['peak_mib']
        assert sum(row[f'{kind}_mib'] for kind in KINDS) == pytest.approx(row['peak_mib'], abs=0.01)
        assert max(module['peak_mib'] for module in row['modules']) == row['peak_mib']
    assert [module['module'] for module in bp['modules']] == ['main']
    assert [module['module'] for module in man['modules']] == ['0', '1', 'main']
    begins = [module['begins'] for module in man['modules']]
    assert begins[0] == 0 and begins == sorted(set(begins)) and begins[-1] < POINTS
    printed = capsys.readouterr().out
    assert 'peak MiB' in printed and 'man' in printed and f'{man["peak_mib"]:.1f}' in printed
    assert f'{man["peak_mib"] / bp["peak_mib"]:.2f}' in printed and 's / step' not in printed


def test_an_estimate_is_what_is_measured_and_noise_has_no_epoch(run, capsys):
    estimated = run('bp.py', 'man.py', '--estimate', *SMALL)['rows']
    measured = run('bp.py', 'man.py', '--rounds', 2, *SMALL)['rows']
    for ours, theirs in zip(estimated, measured, strict=True):
        assert theirs.keys() == MEMORY | TIME
        for key in MEMORY - {'timeline_mib'}:
            assert ours[key] == theirs[key], key
        assert min(theirs['step_s_range']) <= theirs['step_s'] <= max(theirs['step_s_range'])
    assert measured[0]['step_ratio'] == 1
    assert 's / step' in capsys.readouterr().out


def test_memory_alone_is_measured_in_no_rounds(run):
    row = run('man.py', '--rounds', 0, *SMALL)['rows'][0]
    assert row.keys() == MEMORY
    begins = [module['begins'] for module in row['modules']]
    assert begins == sorted(set(begins)) and begins[-1] < 0.95 * POINTS


def test_data_of_a_config_gives_seconds_of_an_epoch(run):
    row = run('data.py', '--rounds', 1, '--json', 'out/rows.json')['rows'][0]
    assert row.keys() == MEMORY | TIME | {'epoch_s'}
    assert row['batch'] == 2 and row['size'] is None
    assert row['epoch_s'] == pytest.approx(3 * row['step_s'])


def test_options_reach_every_config_and_the_batch_of_the_first_is_that_of_all(run):
    options = ('--cfg-options', 'train_dataloader.batch_size=4')
    assert [row['batch'] for row in run('bp.py', 'man.py', '--estimate', *SMALL, *options)['rows']] == [4, 4]
    row = run('bp.py', '--batch', 1, '--estimate', *SMALL, *options)['rows'][0]
    assert row['batch'] == 1
    wide = run('bp.py', '--estimate', *SMALL, '--cfg-options', 'model.bbox_head.feat_channels=32')['rows'][0]
    assert wide['weights_mib'] > row['weights_mib']  # they are the same for any batch


def test_mixed_precision_is_estimated(run):
    assert run('amp.py', '--estimate', *SMALL)['rows'][0]['peak_mib'] > 0


WRONG = {
    'three sizes': (('bp.py', '--size', 1, 2, 3), '--size 1 2 3 must be one or two numbers of px'),
    'no size': (('bp.py', '--size', 0), '--size 0 must be one or two numbers of px'),
    'no batch': (('bp.py', '--batch', 0), '--batch 0 must be 1 or more'),
    'rounds': (('bp.py', '--rounds', -1), '--rounds -1 must be 0 or more'),
    'device': (('bp.py', '--device', 'tpu'), '--device tpu must be cpu, cuda or cuda:N'),
    'number': (('bp.py', '--device', 'cuda:x', '--estimate'), '--device cuda:x must be'),
    'text': (('bp.py', '--size', 'large'), "invalid int value: 'large'"),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_argument_is_named(run, capsys, case):
    arguments, message = WRONG[case]
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_no_device_but_for_estimates(run, capsys):
    with pytest.raises(SystemExit):
        run('bp.py', '--device', 'cuda', *SMALL)
    assert 'torch finds no GPU here; --estimate needs none' in capsys.readouterr().err
    assert run('bp.py', '--device', 'cuda:1', '--estimate', *SMALL)['device'] == 'cuda:1 (estimate)'


REFUSED = {
    'no data': (('data.py', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere/'), 'The data set is missing'),
    'unknown task': (('other.py', *SMALL, '--estimate'), r"default_scope='mmseg': a batch without data is known for"),
    'precision': (('amp.py', *SMALL), r'amp\.py trains in mixed precision, .* on a GPU only'),
    'libraries': (('bp.py', 'cls.py', *SMALL, '--estimate'), r"several libraries .*'bp\.py': 'mmdet', 'cls\.py'"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_done_is_said_in_a_sentence(run, tmp_path, case):
    arguments, message = REFUSED[case]
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert re.search(message, stop.value.code)
    assert not (tmp_path / 'out').exists()


def test_a_shipped_config_is_estimated_in_a_process_of_its_own(tmp_path):
    config = 'configs/man/resnet32_man_k4_cifar10.py'
    arguments = ('--estimate', '--batch', 128, '--size', 32, '--json', tmp_path / 'rows.json')
    result = python('analysis_tools/measure.py', config, *arguments)
    assert result.returncode == 0, result.stderr
    assert 'resnet32_man_k4_cifar10' in result.stdout
    row = json.loads((tmp_path / 'rows.json').read_text())['rows'][0]
    assert row['config'] == config and row['batch'] == 128 and row['peak_mib'] > 50
