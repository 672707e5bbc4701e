"""Every epoch draws its own random numbers, and draws them again when a run is resumed."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.datasets.transforms import CachedMosaic
from mmdet.structures.bbox import HorizontalBoxes

from man_mm.runs import EpochSeedHook

from ..helpers.training import fake_runner


def at(epoch, seed=0, dataset=None):
    return fake_runner(seed=seed, epoch=epoch, train_loop=None, train_dataloader=SimpleNamespace(dataset=dataset))


def mixed(order):
    """A data set of ten grey images, four of which are mixed in each that is read."""
    tile = CachedMosaic(img_scale=(8, 8), max_cached_images=6, random_pop=True)
    boxes = dict(gt_bboxes=HorizontalBoxes(np.array([[1.0, 1, 5, 5]])), gt_bboxes_labels=np.array([0]))
    images = [dict(img=np.full((8, 8, 3), i, np.uint8), gt_ignore_flags=np.array([False]), **boxes) for i in range(10)]
    pipeline = Compose([tile])
    inner = SimpleNamespace(pipeline=pipeline, read=lambda: [pipeline(copy.deepcopy(images[i]))['img'] for i in order])
    return SimpleNamespace(dataset=inner)


def test_mixed_images_of_an_epoch_are_the_same_after_a_resume():
    unbroken, resumed = mixed(range(10)), mixed(range(10))
    for epoch in range(2):
        EpochSeedHook().before_train_epoch(at(epoch, dataset=unbroken))
        images = unbroken.dataset.read()
    EpochSeedHook().before_train_epoch(at(1, dataset=resumed))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(resumed.dataset.read(), images, strict=True))
    assert any(len(np.unique(image)) > 2 for image in images)  # they are mixed


def test_an_epochs_random_numbers_repeat_and_no_two_epochs_share_theirs():
    def draw(seed, epoch):
        EpochSeedHook().before_train_epoch(at(epoch, seed))
        return torch.rand(1).item(), np.random.rand(), random.random()

    draws = [draw(seed, epoch) for seed in (0, 1) for epoch in range(5)]
    assert draws == [draw(seed, epoch) for seed in (0, 1) for epoch in range(5)]
    for numbers in zip(*draws, strict=True):
        assert len(set(numbers)) == 10
