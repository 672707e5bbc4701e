"""OnceABatch: K losses of a batch, and one assignment of its targets."""

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

from torch import nn

from .memo import Memo
from .values import StandIn, copied

__all__ = ['OnceABatch']

TOOLS = ('grid_priors', 'valid_flags', 'assign')
"""Methods of prior generators and assigners."""


class OnceABatch:
    """Between `open` and `close`, MMDetection's heads make of a batch alone once what all its losses need of it.

    That is priors, what is assigned to them, and targets, for each group of heads of the same settings, be they the
    model's or an auxiliary's; also what a loss asks the device about them, for which the host waits. What depends on
    predictions (DETR's matching, proposals) or draws random numbers (samplers) is made for every loss, as upstream
    does. Everything equals what upstream makes, to the bit.

    Args:
        host: The detector, complete with its auxiliaries.
    """

    def __init__(self, host: nn.Module) -> None:
        self._heads: list[Any] = [part for part in host.modules() if hasattr(part, 'loss_by_feat')]
        detector: Any = type(host)
        name = 'rpn_head' if detector.loss.__qualname__ == 'TwoStageDetector.loss' else None
        self._rpn_heads: list[Any] = [part for path, part in host.named_modules() if path.split('.')[-1] == name]
        self._memo: Memo | None = None
        self._samples: Any = None
        self._replaced: list[tuple[Any, str, StandIn, Any]] = []

    def open(self, targets: Any) -> None:
        """Begin, with the targets of a batch, before any of its losses."""
        self.close()
        self._memo = Memo(targets)
        for head in self._heads:
            for name in _target_methods(head.__class__):
                self._replace(head, name, self._once(head, name))
            for tool in list(vars(head).values()):
                for name in TOOLS:
                    if callable(getattr(tool, name, None)):
                        self._replace(tool, name, self._once(tool, name))
            self._replace(head, 'loss_by_feat', self._asking(head.loss_by_feat))
        for head in self._rpn_heads:
            self._replace(head, 'loss_and_predict', self._of_same_samples(head.loss_and_predict))

    def close(self) -> None:
        """Leave the heads as they were, and forget the batch."""
        self._memo = self._samples = None
        for owner, name, stand_in, before in reversed(self._replaced):
            if vars(owner).get(name) is stand_in:  # else another took its place
                del vars(owner)[name]
                if before is not None:
                    vars(owner)[name] = before
        self._replaced.clear()

    def _replace(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        before = vars(owner).get(name)
        if not isinstance(before, StandIn):  # heads may share their tools
            vars(owner)[name] = stand_in = StandIn(call)
            self._replaced.append((owner, name, stand_in, before))

    def _once(self, owner: Any, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._memo is None:  # recomputed in the main loss's backward
                return function(*args, **kwargs)
            return self._memo.call(owner, name, function, args, kwargs)

        return call

    def _asking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._memo is None:
                return function(*args, **kwargs)
            with self._memo.loss():
                return function(*args, **kwargs)

        return call

    def _of_same_samples(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A two-stage detector's loss copies the samples for its RPN, the same copy in every loss: take the first."""

        def call(x: Any, batch_data_samples: Any, *args: Any, **kwargs: Any) -> Any:
            if self._memo is None:
                return function(x, batch_data_samples, *args, **kwargs)
            if self._samples is None:
                self._samples = batch_data_samples
                self._memo.learn(batch_data_samples)
            return function(x, copied(self._samples), *args, **kwargs)

        return call


@cache
def _target_methods(head: Hashable) -> tuple[str, ...]:
    names = (name for name in dir(head) if name.startswith('get_'))
    return tuple(name for name in names if name.endswith(('_anchors', '_points', '_targets')))
