"""Long runs do not grow: tensors, file handles, memory."""

import gc
import os
import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS

from ..helpers.classification import batch, classifier
from ..helpers.runs import runner

MIB = 2**20


@DATASETS.register_module(force=True)
class DrawnImages:
    """Eight images of noise."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {key: values[0] for key, values in batch(1, labels=[index], seed=index).items()}


def resources():
    """Live tensors, open file handles, resident memory in MiB."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        tensors = sum(isinstance(item, torch.Tensor) for item in gc.get_objects())
    with open('/proc/self/statm') as file:
        resident = int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / MIB
    return tensors, len(os.listdir('/proc/self/fd')), resident


class Meter(Hook):
    """Measures after `warm_up` iterations and every `interval` after them."""

    def __init__(self, warm_up, interval):
        self.warm_up, self.interval = warm_up, interval
        self.taken = []

    def after_train_iter(self, runner, *args, **kwargs):
        number = runner.iter + 1
        if number >= self.warm_up and (number - self.warm_up) % self.interval == 0:
            tensors, files, resident = resources()
            print(f'{number:6d} steps: {tensors} tensors, {files} file handles, {resident:.1f} MiB', flush=True)
            self.taken.append((tensors, files, resident))


def config(work_dir, iterations):
    return dict(
        default_scope='mmpretrain',
        model=classifier('man', num_modules=3, net_depth=8),
        train_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'), dataset=dict(type='mmengine.DrawnImages')
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(type='man_mm.LocalOptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40)],
        custom_hooks=[dict(type='man_mm.FeatureBankHook'), dict(type='man_mm.EpochSeedHook')],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=10),
            checkpoint=dict(
                type='man_mm.SafeCheckpointHook', by_epoch=False, interval=iterations // 4, max_keep_ckpts=1
            ),
        ),
        work_dir=str(work_dir),
        log_level='ERROR',
    )


@pytest.mark.parametrize(
    ('iterations', 'warm_up', 'mib'), [(100, 50, 16), pytest.param(10_000, 1_000, 32, marks=pytest.mark.long)]
)
def test_training_does_not_grow(tmp_path, iterations, warm_up, mib):
    """MMEngine's own logs keep every value of every step: some 20 of 16 bytes, 3 MiB in 10,000 steps."""
    meter = Meter(warm_up, (iterations - warm_up) // 5)
    run = runner(config(tmp_path, iterations))
    run.register_hook(meter)
    run.train()
    first, *between, last = meter.taken
    assert len(between) == 4
    assert last[0] <= first[0] and last[1] <= first[1]
    assert last[2] - first[2] < mib
