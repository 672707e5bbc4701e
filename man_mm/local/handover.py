"""A training forward that several processes run, one after the other, each its own modules."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ['HandedOver', 'Handover']


@dataclass(frozen=True)
class Handover:
    """What the modules before `module` leave to those from there on. All tensors are detached.

    Args:
        module: Index of the first module to run.
        x: Its input.
        taps: What the bank holds.
    """

    module: int
    x: Tensor
    taps: Mapping[str, Tensor]


class HandedOver(Exception):
    """Ends a model's forward inside its backbone: the rest of it is another process' work.

    Args:
        handover: Where that one goes on.
    """

    def __init__(self, handover: Handover) -> None:
        super().__init__(f'another process goes on from module {handover.module}.')
        self.handover = handover
