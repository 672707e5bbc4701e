"""Every epoch draws its own random numbers, and draws them again when a run is resumed."""

import random

import numpy as np
import torch

from man_mm.runs import EpochSeedHook

from ..helpers.training import fake_runner


def test_an_epochs_random_numbers_repeat_and_no_two_epochs_share_theirs():
    def draw(seed, epoch):
        EpochSeedHook().before_train_epoch(fake_runner(seed=seed, epoch=epoch, train_loop=None))
        return torch.rand(1).item(), np.random.rand(), random.random()

    draws = [draw(seed, epoch) for seed in (0, 1) for epoch in range(5)]
    assert draws == [draw(seed, epoch) for seed in (0, 1) for epoch in range(5)]
    for numbers in zip(*draws, strict=True):
        assert len(set(numbers)) == 10
