"""One thread and one seed for every test: equality is to the bit."""

import pytest
import torch
from mmdet.utils import register_all_modules

from .helpers.precision import mixed_precision_on_cpu


@pytest.fixture(scope='session', autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def mixed_precision():
    """For tests that train in low precision, by a wrapper or by `torch.autocast`."""
    with mixed_precision_on_cpu():
        yield
