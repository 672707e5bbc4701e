"""Readouts: how a host library turns features into its task's losses."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from mmengine.logging import print_log
from torch import Tensor, nn

from ..local.host import BACKBONES, NO_HEADS

__all__ = ['Readout', 'build_readout', 'register_readout']


class Readout:
    """The host model's own loss, with its feature extraction replaced by an auxiliary's features.

    Args:
        host: The model whose backbone is a `LocalBackbone`.
        num_modules: K.
    """

    extract: ClassVar[str]
    """The host's method that turns inputs into what its heads read."""
    train: ClassVar[str] = 'loss'
    """The host's method that turns inputs and targets into losses; it calls `extract` once."""

    def __init__(self, host: nn.Module, num_modules: int) -> None:
        self.host: Any = host
        self.num_losses = num_modules
        self.handles: list[Any] = []

    def task(self, auxiliary: Any, inputs: Any, targets: Any) -> 'BatchTask':
        """What `auxiliary` asks of the host for one batch."""
        return BatchTask(self, auxiliary, inputs, targets)

    def loss(self, auxiliary: Any, features: Any, inputs: Any, targets: Any) -> dict[str, Any]:
        """The host's dict of losses for `features` that its heads read. They carry the features' graph."""
        with self._private_heads(auxiliary), self._extracting(features):
            return getattr(self.host, self.train)(inputs, targets)

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Raise ValueError if the host cannot train on a batch."""

    def scores(self, targets: Any) -> Tensor:
        """Class targets (N, num_classes) of a batch; one-hot rows unless it is mixed.

        Raises:
            ValueError: If the host's task is no classification.
        """
        raise self._no_classes()

    def labels(self, targets: Any) -> Tensor:
        """Class of every image of a batch, (N,).

        Raises:
            ValueError: If the host's task is no classification, or images of different classes were mixed.
        """
        raise self._no_classes()

    def _no_classes(self) -> ValueError:
        return ValueError(
            f'{type(self.host).__name__} has no class of an image to give to an auxiliary that asks for it '
            '(man_mm.PredSim, man_mm.InfoPro): these are rules for classification.'
        )

    def images(self, inputs: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) as they were in [0, 1]."""
        preprocessor = self.host.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            inputs = inputs * preprocessor.std + preprocessor.mean
        return (inputs / 255).clamp(0, 1)

    @contextmanager
    def sharing(self, auxiliary: Any) -> Iterator[None]:
        """Wraps a local loss and its backward: with `last`, shared parameters take no part in either."""
        frozen = self.shared_parameters(auxiliary) if auxiliary.shared_head_grad == 'last' else []
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def apply_neck(self, auxiliary: Any, features: Any) -> Any:
        """Run the auxiliary's neck on `features`, or the host's where it has none of its own."""
        if auxiliary.neck is not None:
            return auxiliary.neck(features)
        neck = getattr(self.host, 'neck', None)
        return features if neck is None else neck(features)

    def shared_parameters(self, auxiliary: Any) -> list[nn.Parameter]:
        """Trainable parameters of the host that a local loss of `auxiliary` reaches."""
        own = {*BACKBONES, *auxiliary.heads, *(['neck'] if auxiliary.neck is not None else [])}
        shared = [p for name, child in self.host.named_children() if name not in own for p in child.parameters()]
        everything = (*shared, *self.host.parameters(recurse=False), *auxiliary.shared_parameters())
        return [p for p in everything if p.requires_grad]

    def attach(self, auxiliary: Any, before_forward: Callable[..., None], after_forward: Callable[..., None]) -> None:
        """Listen to the host's forward until `detach`; for `mean`, divide gradients of shared parameters."""
        self.handles = [
            self.host.register_forward_pre_hook(before_forward, with_kwargs=True),
            self.host.register_forward_hook(after_forward, always_call=True),
        ]
        if auxiliary.shared_head_grad == 'mean':
            shared = self.shared_parameters(auxiliary)
            self.handles += [p.register_hook(lambda grad: grad / self.num_losses) for p in shared]

    def detach(self) -> None:
        """Leave the host as it was."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def check(self, auxiliary: Any) -> None:
        """Raise ValueError if the host cannot serve what `auxiliary` asks for."""
        if auxiliary.shared_head_grad != 'sum' and not self.shared_parameters(auxiliary):
            print_log(
                f'auxiliary.shared_head_grad={auxiliary.shared_head_grad!r} has nothing to act on: neck, heads and '
                "tail are the auxiliary's own.",
                logger='current',
                level=logging.WARNING,
            )
        wanted = set(auxiliary.head) if isinstance(auxiliary.head, dict) else set()
        if auxiliary.head == 'private':
            wanted = {name for name, child in self.host.named_children() if _trains(child)} - set(NO_HEADS)
        missing = sorted(wanted - set(auxiliary.heads))
        if missing or (auxiliary.head == 'private' and not auxiliary.heads):
            parts = [name for name, _ in self.host.named_children()]
            raise ValueError(
                f'auxiliary.head={auxiliary.head!r} cannot be served: {type(self.host).__name__} has no head '
                f'{missing or "of its own"} that is complete when it is registered. Its parts: {parts}.'
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
        calls = []

        def extract(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return features

        vars(self.host)[self.extract] = extract
        try:
            yield
        finally:
            vars(self.host).pop(self.extract, None)
        if len(calls) != 1:
            raise ValueError(
                f'model.type={type(self.host).__name__} calls {self.extract} {len(calls)} times in its loss; local '
                'learning stands in for exactly one call. Such a model needs a readout of its own.'
            )


@dataclass(frozen=True)
class BatchTask:
    """The host's task on one batch, for one auxiliary; see `man_mm.auxiliary.Task`."""

    readout: Readout
    auxiliary: Any
    inputs: Any
    targets: Any

    def neck(self, features: Any) -> Any:
        """Run the auxiliary's neck on `features`, or the host's where it has none of its own."""
        return self.readout.apply_neck(self.auxiliary, features)

    def loss(self, features: Any) -> dict[str, Any]:
        """The host's dict of losses, by the auxiliary's heads where it has its own."""
        return self.readout.loss(self.auxiliary, features, self.inputs, self.targets)

    def total(self, features: Any) -> Tensor:
        """The sum of these losses."""
        return self.readout.host.parse_losses(self.loss(features))[0]

    def labels(self) -> Tensor:
        """Class of every image, (N,)."""
        return self.readout.labels(self.targets)

    def scores(self) -> Tensor:
        """Class targets, (N, num_classes)."""
        return self.readout.scores(self.targets)

    def images(self) -> Tensor:
        """The images in [0, 1], (N, C, H, W)."""
        return self.readout.images(self.inputs)


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


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
