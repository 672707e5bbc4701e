"""A fault of oneDNN that a run cannot see: weight gradients in bfloat16 that are uninitialised memory."""

import logging
from functools import cache

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..versions import autocast_dtype, is_autocast_on

__all__ = ['warn_of_bfloat16']

TRIALS = 10
"""Where the fault is, 297 of 300 trials showed it."""
JUNK = 3e8
"""What memory is filled with before it is let go."""


def warn_of_bfloat16(x: Tensor) -> None:
    """Warn, once, if training on images `x` computes in bfloat16 on a CPU whose gradients may be garbage.

    The oneDNN of torch 2.11 returns uninitialised memory as the weight gradient of a 3x3 convolution of stride 2 on a
    map of one cell, in bfloat16 on CPUs with AMX or AVX512-BF16: by back-propagation as well as by local learning.
    """
    if x.device.type != 'cpu' or isinstance(x, FakeTensor):
        return
    by_autocast = is_autocast_on('cpu') and autocast_dtype('cpu') is torch.bfloat16
    if by_autocast or x.dtype is torch.bfloat16:
        _warn()


@cache
def _warn() -> None:
    if gradients_are_garbage():
        print_log(
            'bfloat16 on this CPU: the oneDNN of this torch returns uninitialised memory as the weight gradient of a '
            '3x3 convolution of stride 2 on a map of 1 x 1 cells, e.g. of an FPN on small images. Train in float32, on '
            'larger images, or with torch.backends.mkldnn.enabled = False.',
            logger='current',
            level=logging.WARNING,
        )


def gradients_are_garbage() -> bool:
    """Whether such a gradient, tried on this CPU, is another one than in float32."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        conv, images = nn.Conv2d(8, 8, 3, stride=2, padding=1), torch.randn(2, 8, 1, 1)
        with torch.autocast('cpu', enabled=False):
            (exact,) = torch.autograd.grad(conv(images).sum(), conv.weight)
        for _ in range(TRIALS):
            kept = [torch.full((conv.weight.numel(),), JUNK, dtype=torch.bfloat16) for _ in range(8)]
            del kept  # the memory that the gradient gets
            with torch.autocast('cpu', torch.bfloat16):
                made = conv(images)
            (grad,) = torch.autograd.grad(made.float().sum(), conv.weight)
            if not torch.allclose(grad, exact, rtol=0.1, atol=0.1):
                return True
    return False
