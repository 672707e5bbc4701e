"""How a `LocalBackbone` reaches `local_backward` without knowing the optimizer.

MMEngine runs every training forward inside `optim_wrapper.optim_context(model)`; the local optim wrappers publish their
`local_backward` there.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor

__all__ = ['LocalBackward', 'current_local_backward', 'publish_local_backward']


class LocalBackward(Protocol):
    """Back-propagates the local losses of one module at once, and frees its graph."""

    def __call__(self, losses: Mapping[str, Tensor | list[Tensor]], module: int) -> None: ...


_current: ContextVar[LocalBackward | None] = ContextVar('local_backward', default=None)


@contextmanager
def publish_local_backward(local_backward: LocalBackward) -> Iterator[None]:
    """Make `local_backward` the current one inside the `with` block."""
    token = _current.set(local_backward)
    try:
        yield
    finally:
        _current.reset(token)


def current_local_backward() -> LocalBackward | None:
    """The published `local_backward`; None outside of training with a local optim wrapper."""
    return _current.get()
