"""A model that is looked at between steps of its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ['evaluating']


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has its own mode again, frozen norms too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
