"""One device, one thread and one seed for every test: equality is to the bit."""

import os
from contextlib import nullcontext

if os.environ.get('MAN_MM_TEST_DEVICE', 'cpu') == 'cpu':  # before torch: runners and other processes look for a GPU
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
else:
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS repeats its sums
    os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')  # to look for a GPU starts none: processes can fork

import pytest
import torch
from mmengine.logging import MessageHub

from man_mm.analysis.memory import PeakMemory
from man_mm.versions import KEEPS_STORAGES

from .helpers import configs
from .helpers.device import DEVICE, use_exact_kernels
from .helpers.precision import mixed_precision_for_tests


def pytest_runtest_setup(item):
    """Skip what is marked `cpu_only(reason)` on another device."""
    marker = item.get_closest_marker('cpu_only')
    if marker is not None and DEVICE.type != 'cpu':
        pytest.skip(f'on a CPU only: {marker.args[0]}')


@pytest.fixture(scope='session', autouse=True)
def _once():
    use_exact_kernels()
    configs.prepare()
    configs.list_no_weights()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    MessageHub.get_current_instance().pop_info('loop_stage')  # of a run that was to fail


if not KEEPS_STORAGES:

    @pytest.fixture(autouse=True)
    def _no_meter(monkeypatch):
        monkeypatch.setattr(PeakMemory, '__init__', lambda *_, **__: pytest.skip('memory is metered by torch >= 2.2'))


@pytest.fixture
def device():
    """The device of the tests; what a test creates without naming another one is there."""
    with nullcontext() if DEVICE.type == 'cpu' else torch.device(DEVICE):  # it hears of every call of a function
        yield DEVICE


@pytest.fixture
def mixed_precision():
    """For tests that train in low precision, by a wrapper or by `torch.autocast`."""
    with mixed_precision_for_tests():
        yield
