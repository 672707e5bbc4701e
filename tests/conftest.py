"""One device, one thread and one seed for every test: equality is to the bit."""

import os

if os.environ.get('MAN_MM_TEST_DEVICE', 'cpu') == 'cpu':
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before torch: Runners, forked and spawned processes look for themselves

import pytest
import torch

from .helpers.precision import mixed_precision_on_cpu


@pytest.fixture(scope='session', autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def mixed_precision():
    """For tests that train in low precision, by a wrapper or by `torch.autocast`."""
    with mixed_precision_on_cpu():
        yield
