"""Faults of one process out of two: odd batches train, other set-ups are refused, a dead one stops the run."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from ..helpers import fault_ranks
from ..helpers.detection import batch, build, sample
from ..helpers.detectors import detector
from ..helpers.processes import ROOT, free_port, start
from ..helpers.runs import make_coco, run_config, write_config
from ..helpers.training import Trainer, assert_equal, gradients

pytestmark = pytest.mark.cpu_only('two processes need two GPUs')

CLOSE = dict(rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """Results of all scenarios, from both ranks."""
    folder, port = tmp_path_factory.mktemp('ranks'), free_port()
    processes = [start(fault_ranks.run, rank, port, str(folder)) for rank in range(fault_ranks.WORLD)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(fault_ranks.WORLD)]


def mean(*gradients):
    """The mean over ranks; a parameter without a gradient on one of them counts as zero there."""
    names = {name: None for result in gradients for name in result}
    return {name: sum(result.get(name, torch.tensor(0.0)) for result in gradients) / len(gradients) for name in names}


@pytest.mark.parametrize('name', fault_ranks.BATCHES)
def test_odd_batches_give_the_mean_of_what_each_rank_alone_would_get(ranks, name):
    expected = mean(*(gradients(batch(**options)) for options in fault_ranks.BATCHES[name]))
    for result in ranks:
        assert_equal(result[name], expected, **CLOSE)


def test_losses_normalised_over_ranks_give_the_gradients_of_one_process_with_both_batches(ranks):
    """FCOS divides by the number of objects in all ranks."""
    pairs = [sample(0), sample(0, boxes=())]
    both = dict(inputs=[image for image, _ in pairs], data_samples=[data_sample for _, data_sample in pairs])
    alone = Trainer(build(detector(fault_ranks.NORMALISED_OVER_RANKS)))
    alone.step(both)
    for result in ranks:
        assert_equal(result[fault_ranks.NORMALISED_OVER_RANKS], alone.gradients, **CLOSE)


@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('lr', r'optimizer group 0.lr \(rank 1: 0.02; rank 0: 0.01\)'),
        ('bank', r'bank \(rank 1: lent: False; rank 0: lent: True\)'),
        ('partition', r'partition \(rank 1: .*; rank 0: '),
        ('auxiliary', r'auxiliaries.0.shared_head_grad \(rank 1: mean; rank 0: sum\)'),
        ('clip', r"optim_wrapper.clip_grad \(rank 1: {'max_norm': 2.0}; rank 0: {'max_norm': 1.0}\)"),
    ],
)
def test_ranks_with_other_setups_are_refused_before_training(ranks, name, what):
    for result in ranks:
        message = result['setups'][name]
        assert message.startswith('rank 1 was started with another set-up than rank 0. What differs: ')
        assert re.search(what, message)


def test_a_rank_that_raises_alone_does_not_leave_the_other_one_waiting(ranks):
    kind, message, _ = ranks[1]['alone']
    assert kind == 'FloatingPointError' and 'of module 1' in message
    kind, _, seconds = ranks[0]['alone']
    assert kind == 'RuntimeError' and seconds < 60


HOOK = """
import os, signal, time
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DyingHook(Hook):
    def __init__(self, fault):
        self.fault = fault

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 3 and runner.rank == 1:
            Path(runner.work_dir, 'died').touch()
            if self.fault == 'raise':
                raise FloatingPointError('local loss is infinite or NaN')
            os.kill(os.getpid(), signal.SIGKILL)
"""


def launch(folder, launcher, config, *arguments):
    """Run on two processes; returns exit code, output, and seconds from the death of one to the end of all."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(folder), 'PORT': str(free_port())}
    env['PATH'] = f'{os.path.dirname(sys.executable)}:{env["PATH"]}'
    command = [*launcher, str(config), *arguments]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    died = folder / 'run/died'
    seconds = time.time() - died.stat().st_mtime if died.exists() else None
    return result.returncode, result.stdout + result.stderr, seconds


def dying(folder, fault):
    (folder / 'dying.py').write_text(HOOK)
    cfg = run_config(make_coco(folder / 'coco', num_images=8), folder / 'run', epochs=1000, find_unused_parameters=True)
    cfg['custom_hooks'].append(dict(type='DyingHook', fault=fault))
    cfg['custom_imports'] = dict(imports=['dying'], allow_failed_imports=False)
    return write_config(cfg, folder / 'config.py')


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        ('kill', f'Signal {signal.SIGKILL.value} (SIGKILL) received by PID'),
        pytest.param('raise', 'FloatingPointError: local loss is infinite or NaN', marks=pytest.mark.long),
    ],
)
def test_a_dead_rank_ends_the_run_within_a_minute_and_the_summary_names_it(tmp_path, fault, reason):
    launcher = ('bash', str(ROOT / 'tools/dist_train.sh'))
    code, output, seconds = launch(tmp_path, launcher, dying(tmp_path, fault), '2')
    assert code != 0 and seconds is not None and seconds < 60
    assert (tmp_path / 'run/epoch_1.pth').exists()  # both had trained until then
    summary = output[output.index('Root Cause') :]
    assert re.search(r'rank +: 1 \(local_rank: 1\)', summary)
    assert reason in summary


@pytest.mark.long
def test_ranks_with_other_configs_are_told_the_key_before_the_model_is_built(tmp_path):
    config = dying(tmp_path, 'none')
    option = 'model.backbone.num_modules=$((4 + RANK))'
    (tmp_path / 'each.sh').write_text(f'exec python {ROOT}/tools/train.py $1 --launcher pytorch --cfg-options {option}')
    port = f'--master_port={free_port()}'
    launcher = ('torchrun', '--no-python', '--nproc_per_node=2', port, 'bash', 'each.sh')
    code, output, _ = launch(tmp_path, launcher, config)
    assert code != 0
    assert 'rank 1 was started with another set-up than rank 0' in output
    assert 'model.backbone.num_modules (rank 1: 5; rank 0: 4)' in output
