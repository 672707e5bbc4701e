"""Where the suite trains: on the CPU, or on the device that `MAN_MM_TEST_DEVICE` names (`cuda`)."""

import os

import torch

DEVICE = torch.device(os.environ.get('MAN_MM_TEST_DEVICE', 'cpu'))
"""Tiny models are built there. Batches are as a data loader hands them out, on the CPU: the model moves them."""


def use_exact_kernels() -> None:
    """Let one thread, or one GPU, repeat a sum to the bit, and keep float32 what it says.

    Upstream's few kernels without a deterministic twin on CUDA warn.
    """
    torch.set_num_threads(1)
    if DEVICE.type == 'cuda':
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)
