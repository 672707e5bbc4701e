"""Readouts: how a host library turns features into its task's losses."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn

from ..local import Auxiliary, LocalBackbone, Task, on_host
from ..local.names import BACKBONES, NO_HEADS
from .host_task import HostTask, holder_of
from .joint_run import JointRun
from .necks import compare_necks
from .notes import Notes

__all__ = [
    'HostTask',
    'Readout',
    'build_readout',
    'holder_of',
    'readout_of',
    'refuse_unserved',
    'register_readout',
    'register_unserved',
]


class Readout:
    """Set-up and checks of a host model whose task trains the modules of its backbone.

    Args:
        host: The model whose backbone is a `LocalBackbone`.
        num_modules: K.
    """

    task_type: ClassVar[type[HostTask]] = HostTask
    scope: ClassVar[str]
    """The host library's `default_scope`."""
    collate: ClassVar[str] = 'pseudo_collate'
    """What its command lines collate a batch by, where a config says nothing."""

    def __init__(self, host: nn.Module, num_modules: int) -> None:
        self.host: Any = host
        self.holder = holder_of(host)
        self.num_losses = num_modules
        """Local losses of a step, and the main loss."""
        self.handles: list[Any] = []
        self._notes: Notes | None = None
        self._joint_run: JointRun | None = None

    def open_batch(self, inputs: Any, targets: Any) -> None:
        """Called before the losses of a batch, preprocessed, with its data samples."""
        kind = self.task_type
        if kind.num_calls > 1:
            images = kind.images_of_calls(inputs, kind.own_targets(targets))
            self._joint_run = JointRun(self.holder, kind.extract, images)

    def close_batch(self) -> None:
        """Called after them, also when one raises, and when there were none."""
        if self._joint_run is not None:
            self._joint_run.close()
            self._joint_run = None

    @contextmanager
    def task(self, auxiliary: Auxiliary, inputs: Any, targets: Any) -> Iterator[Task]:
        """The host's task on a batch for `auxiliary`; open until the backward of its local losses has ended.

        With `shared_head_grad='last'`, parameters shared with the host take no part in the losses inside. What shared
        parts count by losses is put back at the end: the main loss alone counts.
        """
        frozen = self.shared_parameters(auxiliary) if auxiliary.shared_head_grad == 'last' else []
        for parameter in frozen:
            parameter.requires_grad_(False)
        if self._notes is None:
            self._notes = Notes(self.host, self._shared_parts(auxiliary))
        try:
            with self._notes.kept():
                yield self.task_type(self.host, auxiliary, inputs, targets)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @staticmethod
    def synthetic_target(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
        """The target of an image without data, such as the task of a whole config has; the same for the same generator.

        Args:
            cfg: Names the model.
            index: Number of the image.
            size: Its height and width in px.
            generator: Where numbers come from.

        Raises:
            ValueError: If none is known.
        """
        known = sorted(readout.scope for readout in _READOUTS.values() if 'synthetic_target' in vars(readout))
        raise ValueError(
            f'default_scope={cfg.get("default_scope")!r}: a batch without data is known for {known}. Leave the size '
            'out to take one from the data set of the config.'
        )

    @staticmethod
    def cuda_branches() -> AbstractContextManager[None]:
        """Inside, fake tensors on a CPU go the host library's way on CUDA where it is another one."""
        return nullcontext()

    @staticmethod
    def without_predictions(mode: Any) -> AbstractContextManager[None]:
        """Inside, a model that decides by what it predicts gets stand-ins for it where tensors are fake, of `mode`."""
        return nullcontext()

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Raise ValueError if the host cannot train on a batch."""

    def unread_taps(self, backbone: LocalBackbone) -> frozenset[str]:
        """Taps of which neither the host nor an auxiliary reads the values."""
        return frozenset()

    def shared_parameters(self, auxiliary: Auxiliary) -> list[nn.Parameter]:
        """Trainable parameters of the host that a local loss of `auxiliary` reaches."""
        shared = [p for part in self._shared_parts(auxiliary) for p in part.parameters()]
        direct = (p for part in dict.fromkeys((self.host, self.holder)) for p in part.parameters(recurse=False))
        everything = (*shared, *direct, *auxiliary.shared_parameters())
        return [p for p in everything if p.requires_grad]

    def _shared_parts(self, auxiliary: Auxiliary) -> list[nn.Module]:
        own = {*BACKBONES, *auxiliary.heads, *(['neck'] if auxiliary.neck is not None else [])}
        beside = [child for child in self.host.children() if child is not self.holder and self.holder is not self.host]
        return [*beside, *(child for name, child in self.holder.named_children() if name not in own)]

    def attach(
        self, auxiliary: Auxiliary, before_forward: Callable[..., None], after_forward: Callable[..., None]
    ) -> None:
        """Listen to the host's forward until `detach`; for `mean`, divide gradients of shared parameters."""
        self.handles = [
            self.host.register_forward_pre_hook(before_forward, with_kwargs=True),
            self.host.register_forward_hook(after_forward, always_call=True),
        ]
        if auxiliary.shared_head_grad == 'mean':
            shared = self.shared_parameters(auxiliary)
            self.handles += [p.register_hook(self._mean) for p in shared]

    def _mean(self, grad: Tensor) -> Tensor:
        return grad / self.num_losses

    def detach(self) -> None:
        """Leave the host as it was."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def check(self, auxiliary: Auxiliary) -> None:
        """Raise ValueError if the host cannot serve what `auxiliary` asks for, e.g. since a config that inherits from
        one of local learning has changed the model's neck, but not its copy in the auxiliary.
        """
        compare_necks(self.holder, auxiliary)
        if auxiliary.shared_head_grad != 'sum' and not self.shared_parameters(auxiliary):
            print_log(
                f'auxiliary.shared_head_grad={auxiliary.shared_head_grad!r} has nothing to act on: neck, heads and '
                "tail are the auxiliary's own.",
                logger='current',
                level=logging.WARNING,
            )
        wanted = set(auxiliary.head) if isinstance(auxiliary.head, dict) else set()
        if auxiliary.head == 'private':
            wanted = {name for name, child in self.holder.named_children() if _trains(child)} - set(NO_HEADS)
        missing = sorted(wanted - set(auxiliary.heads))
        if missing or (auxiliary.head == 'private' and not auxiliary.heads):
            parts = [name for name, _ in self.holder.named_children()]
            raise ValueError(
                f'auxiliary.head={auxiliary.head!r} cannot be served: {type(self.holder).__name__} has no head '
                f'{missing or "of its own"} that is complete when it is registered. Its parts: {parts}.'
            )


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


_READOUTS: dict[str, type[Readout]] = {}
_UNSERVED: dict[str, str] = {}


def register_readout(*hosts: str) -> Callable[[type[Readout]], type[Readout]]:
    """Register a readout for models derived from the classes with these dotted names, which need no import."""

    def register(readout: type[Readout]) -> type[Readout]:
        _READOUTS.update(dict.fromkeys(hosts, readout))
        return readout

    return register


def register_unserved(*hosts: str, reason: str) -> None:
    """Register why models derived from classes of these dotted names are refused, unless a readout serves them."""
    _UNSERVED.update(dict.fromkeys(hosts, reason))


@on_host
def refuse_unserved(host: nn.Module) -> None:
    """Raise ValueError with the reason if `host` is known not to be served, before anything else is found amiss."""
    for cls in type(host).__mro__:
        name = _dotted(cls)
        if name in _READOUTS:
            return
        if name in _UNSERVED:
            kind = type(host).__name__
            raise ValueError(f'model.type={kind} is not served by local learning: {_UNSERVED[name]}')


def _dotted(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def build_readout(host: nn.Module, num_modules: int) -> Readout:
    """Build the readout for `host` by its class.

    Raises:
        ValueError: If no readout serves it.
    """
    refuse_unserved(host)
    for cls in type(host).__mro__:
        readout = _READOUTS.get(_dotted(cls))
        if readout is not None:
            return readout(host, num_modules)
    raise ValueError(
        f'model.type={type(host).__name__} has no readout: nothing says how it turns features into losses. Served are '
        f'models derived from {", ".join(sorted(_READOUTS))}. Add yours with man_mm.readout.register_readout.'
    )


def readout_of(cfg: Config) -> type[Readout]:
    """The readout of the library that a config's `default_scope` names; where there is none, one that knows nothing."""
    scope = cfg.get('default_scope')
    return next((readout for readout in _READOUTS.values() if getattr(readout, 'scope', None) == scope), Readout)
