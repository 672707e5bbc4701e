"""The recipe that the papers on ResNet-32 share: data, batch, optimizer, learning rate by epoch."""

import math
from pathlib import Path

import mmpretrain.datasets  # noqa: F401  (transforms)
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, DefaultScope

ROOT = Path(__file__).parents[2]
RECIPES = {
    'cifar10': (1024, 0.8, True, [125.3, 123.0, 113.9], [63.0, 62.1, 66.7]),
    'svhn': (1024, 0.8, False, [127.5] * 3, [127.5] * 3),
    'stl10': (128, 0.1, True, [127.5] * 3, [127.5] * 3),
}


def load(name):
    return Config.fromfile(ROOT / f'configs/bp/resnet32_bp_{name}.py')


@pytest.mark.parametrize('name', RECIPES)
def test_data_and_optimizer_are_the_papers(name):
    batch, lr, flips, mean, std = RECIPES[name]
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == batch and cfg.auto_scale_lr.base_batch_size == batch
    assert not cfg.train_dataloader.get('drop_last', False)
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline if step.type != 'RandomCrop']
    assert steps == (['RandomFlip'] if flips else []) + ['PackInputs']
    assert cfg.data_preprocessor.mean == mean and cfg.data_preprocessor.std == std
    assert cfg.data_preprocessor.to_rgb is False and cfg.data_preprocessor.num_classes == 10
    assert cfg.train_cfg.max_epochs == 400
    sgd = dict(type='SGD', lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert cfg.optim_wrapper.optimizer == sgd and 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.test_dataloader.dataset.split == 'test' and not cfg.test_dataloader.sampler.shuffle


@pytest.mark.parametrize(
    ('name', 'size', 'padding', 'mode'),
    [
        ('resnet32_bp_cifar10', 32, 4, 'reflect'),
        ('cifar10_short', 32, 4, 'reflect'),
        ('resnet32_bp_svhn', 32, 2, 'constant'),
        ('resnet32_bp_stl10', 96, 4, 'constant'),
    ],
)
def test_images_are_cropped_from_all_places_of_the_papers_padded_images(name, size, padding, mode):
    folder = '_base_' if name == 'cifar10_short' else 'bp'
    steps = Config.fromfile(ROOT / f'configs/{folder}/{name}.py').train_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        crops = [TRANSFORMS.build(step) for step in steps if step.type == 'RandomCrop']
    image = np.random.default_rng(0).integers(1, 256, (size, size, 3), dtype=np.uint8)
    padded = np.pad(image, [(padding, padding)] * 2 + [(0, 0)], mode)
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    wanted = {padded[y : y + size, x : x + size].tobytes(): (y, x) for y, x in places}
    np.random.seed(0)
    drawn = set()
    for _ in range(1500):
        sample = dict(img=image)
        for crop in crops:
            sample = crop(sample)
        assert sample['img'].shape == image.shape and sample['img'].tobytes() in wanted
        drawn.add(wanted[sample['img'].tobytes()])
    assert drawn == set(places)


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


@pytest.mark.parametrize(
    ('name', 'lambda1', 'lambda2'),
    [
        ('resnet32_infopro_k16_cifar10', (5.0, 0.2), (0.05, 0.5)),
        ('resnet110_infopro_k55_cifar10', (5.0, 0.5), (0.0, 1.0)),
    ],
)
def test_infopros_weights_are_those_that_its_authors_run(name, lambda1, lambda2):
    auxiliary = Config.fromfile(ROOT / f'configs/infopro/{name}.py').model.backbone.auxiliary
    assert (auxiliary.lambda1, auxiliary.lambda2) == (lambda1, lambda2)


def test_auglocal_as_published_has_13_modules_of_the_authors_units_and_depths():
    cfg = Config.fromfile(ROOT / 'configs/auglocal/resnet32_auglocal_k13_cifar10.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(cfg.model.backbone)
    assert [len(module.units) for module in backbone.local_modules] == [1] * 12 + [4]
    assert [len(auxiliary.units) for auxiliary in backbone.auxiliaries] == [3] * 6 + [2] * 6
    assert backbone.local_modules[11].units[0].name == 'layer3.0'
