"""Killed at a random moment and resumed, a run ends as the unbroken one: epochs and iterations, with random layers."""

import os
import random
import signal
import time
from functools import cache

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..helpers.detection import retinanet
from ..helpers.processes import start
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import assert_equal

EPOCHS, ITERATIONS = 4, 12
LOOPS = {
    'epochs': dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS),
    'iterations': dict(type='IterBasedTrainLoop', max_iters=ITERATIONS),
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco')


@HOOKS.register_module(force=True)
class NoiseHook(Hook):
    """Noise on the images that the model gets: what the model draws shows in the weights, as flipped images do."""

    def before_train(self, runner):
        runner.model.backbone.register_forward_pre_hook(lambda _, args: (args[0] + torch.randn_like(args[0]),))


def config(root, work_dir, loop, num_workers=0, **options):
    cfg = run_config(root, work_dir, retinanet(3), **options)
    saving = dict(type='man_mm.SafeCheckpointHook', interval=1, max_keep_ckpts=1)
    cfg['default_hooks']['checkpoint'] = saving
    cfg['custom_hooks'].append(dict(type='NoiseHook'))
    cfg['train_cfg'] = LOOPS[loop]
    cfg['train_dataloader'].update(num_workers=num_workers, persistent_workers=False)
    if loop == 'iterations':
        saving.update(by_epoch=False, interval=2)
        cfg['train_dataloader']['sampler'] = dict(type='InfiniteSampler', shuffle=True)
        cfg['param_scheduler'] = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8)]
    return cfg


def train(cfg):
    runner(cfg).train()


def state(folder):
    checkpoint = torch.load((folder / 'last_checkpoint').read_text())
    momenta = {str(key): value['momentum_buffer'] for key, value in checkpoint['optimizer']['state'].items()}
    return {**checkpoint['state_dict'], **momenta}


def kill_after(seconds, cfg):
    """Train in a process of its own and kill it; returns whether it was still at work."""
    process = start(train, cfg)
    work_dir = cfg['work_dir']
    while process.is_alive() and not os.path.exists(f'{work_dir}/last_checkpoint'):
        time.sleep(0.01)
    process.join(seconds)
    was_alive = process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return was_alive


@pytest.fixture(scope='module')
def unbroken(root, tmp_path_factory):
    """Of a loop: the final state, and about how long training takes after its first checkpoint, in seconds."""

    def run(loop):
        folder = tmp_path_factory.mktemp(loop)
        cfg = config(root, folder, loop)
        run = runner(cfg)
        begun = time.monotonic()
        run.train()
        return state(folder), 0.75 * (time.monotonic() - begun)

    return cache(run)


LONG = [pytest.param(loop, seed, marks=pytest.mark.long) for loop in LOOPS for seed in range(1, 8)]


@pytest.mark.parametrize(('loop', 'seed'), [('iterations', 0), *LONG])  # by epochs: test_resume.py
def test_killed_at_a_random_moment_and_resumed_it_ends_bit_for_bit_as_unbroken(root, tmp_path, unbroken, loop, seed):
    expected, seconds = unbroken(loop)
    moments = random.Random(seed)
    cfg = config(root, tmp_path, loop)
    for _ in range(1 if seed == 0 else 3):
        kill_after(moments.uniform(0, seconds), cfg)
        cfg = config(root, tmp_path, loop, resume=True)
    train(cfg)
    assert_equal(state(tmp_path), expected)


@pytest.mark.long
@pytest.mark.parametrize('loop', LOOPS)
def test_with_data_workers_too(root, tmp_path, loop):
    train(config(root, tmp_path / 'unbroken', loop, num_workers=1))
    kill_after(0.5, config(root, tmp_path / 'killed', loop, num_workers=1))
    train(config(root, tmp_path / 'killed', loop, num_workers=1, resume=True))
    assert_equal(state(tmp_path / 'killed'), state(tmp_path / 'unbroken'))


def test_a_resumed_run_whose_data_come_in_another_order_says_so(root, tmp_path, capfd):
    for resume in (False, True):
        cfg = {**config(root, tmp_path, 'epochs', resume=resume), 'randomness': dict(seed=None), 'log_level': 'WARNING'}
        cfg['train_cfg'] = dict(type='EpochBasedTrainLoop', max_epochs=2 if resume else 1)
        train(cfg)
        told = 'reads its data in another order' in ''.join(capfd.readouterr())
        assert told == resume
