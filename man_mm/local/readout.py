"""What a `LocalBackbone` asks of the model around it; man_mm.readout.base has the class that answers."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

__all__ = ['Readout']


class Readout(Protocol):
    """Turns features of an auxiliary into the losses of the task."""

    num_losses: int
    """Local losses of the iteration, and the main loss."""

    def task(self, auxiliary: nn.Module, inputs: Any, targets: Any) -> Any:
        """What an auxiliary asks of the model for one batch."""

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Raise ValueError if the model cannot train on a batch."""

    def sharing(self, auxiliary: nn.Module) -> AbstractContextManager[None]:
        """Wraps a local loss and its backward."""

    def detach(self) -> None:
        """Stop to listen to the model."""
