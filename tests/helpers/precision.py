"""Mixed precision on any device."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import amp

from .device import DEVICE


@contextmanager
def mixed_precision_for_tests() -> Iterator[None]:
    """Let MMEngine's AMP train on a CPU too, with gradients that are right on every one.

    MMEngine asserts an accelerator, so it is told that there is one, and given PyTorch's scaler and autocast for the
    CPU. oneDNN is off: that of torch 2.11 returns uninitialised memory as the bfloat16 weight gradient of a 3x3
    convolution of stride 2 on a 1x1 map (FPN's P7 of a 64 px image) on CPUs with AMX or AVX512-BF16.
    """
    if DEVICE.type != 'cpu':
        yield
        return
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('torch < 2.3 scales losses on GPUs alone')
    scaler = functools.partial(torch.amp.GradScaler, 'cpu')
    with (
        mock.patch.multiple(amp_optimizer_wrapper, is_cuda_available=lambda: True, GradScaler=scaler),
        mock.patch.object(amp, 'autocast', functools.partial(torch.autocast, 'cpu')),
        torch.backends.mkldnn.flags(enabled=False),
    ):
        yield
