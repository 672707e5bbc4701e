"""The recipe that the papers on ResNet-32 share: data, batch, optimizer, learning rate by epoch."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

ROOT = Path(__file__).parents[2]
RECIPES = {
    'cifar10': (1024, 0.8, dict(padding=4, padding_mode='reflect'), True, [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]),
    'svhn': (1024, 0.8, dict(padding=2), False, [127.5] * 3, [127.5] * 3),
    'stl10': (128, 0.1, dict(padding=4), True, [127.5] * 3, [127.5] * 3),
}


def load(name):
    return Config.fromfile(ROOT / f'configs/bp/resnet32_bp_{name}.py')


@pytest.mark.parametrize('name', RECIPES)
def test_data_and_optimizer_are_the_papers(name):
    batch, lr, crop, flips, mean, std = RECIPES[name]
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == batch and cfg.auto_scale_lr.base_batch_size == batch
    assert not cfg.train_dataloader.get('drop_last', False)
    first, *rest = cfg.train_dataloader.dataset.pipeline
    assert first == dict(type='RandomCrop', crop_size=96 if name == 'stl10' else 32, **crop)
    assert [step.type for step in rest] == (['RandomFlip'] if flips else []) + ['PackInputs']
    assert cfg.data_preprocessor.mean == mean and cfg.data_preprocessor.std == std
    assert cfg.data_preprocessor.to_rgb is False and cfg.data_preprocessor.num_classes == 10
    assert cfg.train_cfg.max_epochs == 400
    sgd = dict(type='SGD', lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert cfg.optim_wrapper.optimizer == sgd and 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.test_dataloader.dataset.split == 'test' and not cfg.test_dataloader.sampler.shuffle


@pytest.mark.parametrize('name', RECIPES)
def test_the_learning_rate_follows_the_published_curve(name):
    cfg = load(name)
    base, epochs = cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base))
    schedulers = [PARAM_SCHEDULERS.build(dict(scheduler, optimizer=wrapper)) for scheduler in cfg.param_scheduler]
    for epoch in range(1, epochs + 1):
        expected = base / 2 * (1 + math.cos(math.pi * epoch / epochs))
        if epoch <= 10:
            expected = expected * (epoch - 1) / 10 + 0.01 * (11 - epoch) / 10
        # the cosine is one epoch late: the published code takes its value at the end of the epoch
        tolerance = dict(rel=0.01, abs=0) if epoch <= 10 else dict(rel=0, abs=0.005 * base)
        assert wrapper.get_lr()['lr'][0] == pytest.approx(expected, **tolerance), epoch
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
