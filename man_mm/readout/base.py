"""Readouts: how a host library turns features into its task's losses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn

__all__ = ['Readout', 'build_readout', 'register_readout']


class Readout:
    """The host model's own loss, with its feature extraction replaced by an auxiliary's features.

    Args:
        host: The model whose backbone is a `LocalBackbone`.
        num_modules: K.
    """

    extract: ClassVar[str]
    """The host's method that turns inputs into what its heads read."""

    def __init__(self, host: nn.Module, num_modules: int) -> None:
        self.host: Any = host
        self.num_modules = num_modules

    def __call__(self, auxiliary: Any, features: Any, inputs: Any, targets: Any) -> dict[str, Any]:
        """Return the host's dict of losses for an auxiliary's `features`. They carry the features' graph."""
        frozen = self.shared_parameters(auxiliary) if auxiliary.shared_head_grad == 'last' else []
        with _without_grad(frozen), self._private_heads(auxiliary):
            features = self.apply_neck(auxiliary, features)
            with self._extracting(features):
                return self.host.loss(inputs, targets)

    def apply_neck(self, auxiliary: Any, features: Any) -> Any:
        """Run the auxiliary's neck on `features`, or the host's where it has none of its own."""
        if auxiliary.neck is not None:
            return auxiliary.neck(features)
        neck = getattr(self.host, 'neck', None)
        return features if neck is None else neck(features)

    def shared_parameters(self, auxiliary: Any) -> list[nn.Parameter]:
        """Trainable parameters of the host that a local loss of `auxiliary` reaches."""
        own = {'backbone', *auxiliary.heads, *(['neck'] if auxiliary.neck is not None else [])}
        shared = [p for name, child in self.host.named_children() if name not in own for p in child.parameters()]
        return [p for p in (*shared, *self.host.parameters(recurse=False)) if p.requires_grad]

    def scale_shared_gradients(self, auxiliary: Any) -> list[Any]:
        """For `mean`: divide every gradient that reaches a shared parameter by K. Returns handles to undo it."""
        if auxiliary.shared_head_grad != 'mean':
            return []
        return [p.register_hook(lambda grad: grad / self.num_modules) for p in self.shared_parameters(auxiliary)]

    def check(self, auxiliary: Any) -> None:
        """Raise ValueError if the host cannot serve what `auxiliary` asks for."""
        missing = sorted(set(auxiliary.head) - set(auxiliary.heads)) if isinstance(auxiliary.head, dict) else []
        if missing or (auxiliary.head == 'private' and not auxiliary.heads):
            parts = [name for name, _ in self.host.named_children()]
            raise ValueError(
                f'auxiliary.head={auxiliary.head!r} cannot be served: {type(self.host).__name__} has no head '
                f'{missing or "of its own"} that is built after its backbone. Its parts: {parts}.'
            )

    @contextmanager
    def _private_heads(self, auxiliary: Any) -> Iterator[None]:
        parts = self.host._modules
        own = {name: parts[name] for name in auxiliary.heads}
        parts.update(auxiliary.heads.items())
        try:
            yield
        finally:
            parts.update(own)

    @contextmanager
    def _extracting(self, features: Any) -> Iterator[None]:
        vars(self.host)[self.extract] = lambda *args, **kwargs: features
        try:
            yield
        finally:
            del vars(self.host)[self.extract]


@contextmanager
def _without_grad(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


_READOUTS: dict[str, type[Readout]] = {}


def register_readout(*hosts: str) -> Callable[[type[Readout]], type[Readout]]:
    """Register a readout for models derived from the classes with these dotted names, which need no import."""

    def register(readout: type[Readout]) -> type[Readout]:
        _READOUTS.update(dict.fromkeys(hosts, readout))
        return readout

    return register


def build_readout(host: nn.Module, num_modules: int) -> Readout:
    """Build the readout for `host` by its class.

    Raises:
        ValueError: If no readout serves it.
    """
    for cls in type(host).__mro__:
        readout = _READOUTS.get(f'{cls.__module__}.{cls.__qualname__}')
        if readout is not None:
            return readout(host, num_modules)
    raise ValueError(
        f'model.type={type(host).__name__} has no readout: nothing says how it turns features into losses. Served are '
        f'models derived from {", ".join(sorted(_READOUTS))}. Add yours with man_mm.readout.register_readout.'
    )
