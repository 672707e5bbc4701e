"""The one memory meter of this package: peak bytes of live tensors while a block of code runs, and what they are."""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from ..local.names import is_auxiliary_key
from ..versions import KEEPS_STORAGES, tree_leaves

__all__ = ['KINDS', 'PeakMemory', 'Phase', 'training_tensors']

KINDS = ('weights', 'auxiliary', 'gradients', 'optimizer', 'activations', 'bank')
"""What live tensors are. A new tensor is an activation until `PeakMemory.assign` says otherwise."""


@dataclass
class Phase:
    """A part of a metered block.

    Args:
        name: What it was called by `PeakMemory.mark`.
        start: Index into `PeakMemory.timeline` at which it began.
        peak_bytes: The most that was live at once.
        split: These bytes by kind.
    """

    name: str
    start: int = 0
    peak_bytes: int = 0
    split: dict[str, int] = field(default_factory=dict)


class PeakMemory:
    """Context manager: the highest number of bytes that live tensors held at once inside the `with` block.

    On the CPU it counts, exact to the byte and the same on every run, the storages made inside the block as results of
    operators, also in backward, plus those of `tensors`. A storage counts once however many views it has, and until
    its last user lets go of it. Scratch buffers that a kernel allocates and frees within itself do not show, so use it
    for comparisons, not as the resident size of a process. On CUDA the peak is that of the caching allocator's
    allocated bytes, which includes whatever else the process holds on the device; phases, split and timeline follow the
    storages there, too.

    Args:
        tensors: What was there before and belongs to the measured thing, by kind; see `training_tensors`.
        device: Where the block computes.

    Attributes:
        peak_bytes (int): The peak, known when the block has ended.
        reserved_bytes (int): On CUDA, the most that the allocator took from the device.
        start_bytes (int): What was counted when the block began.
        end_bytes (int): What was still counted when the block ended.
        phases (list[Phase]): The parts that `mark` made of the block; what comes before the first has no name.
        timeline (list[int]): Live bytes after every change.

    Raises:
        ValueError: If `device` is neither a CPU nor a CUDA device.
        RuntimeError: If the installed torch (2.1) has storages that cannot be followed.
    """

    def __init__(
        self, tensors: Mapping[str, Iterable[Tensor]] | None = None, device: torch.device | str = 'cpu'
    ) -> None:
        self.device = torch.device(device)
        if self.device.type not in ('cpu', 'cuda'):
            raise ValueError(f"device={str(device)!r} cannot be metered: it must be 'cpu' or 'cuda'.")
        if not KEEPS_STORAGES:
            raise RuntimeError(f'Memory cannot be metered with torch {torch.__version__}: 2.2 or newer is needed.')
        self._tensors = {kind: list(those) for kind, those in (tensors or {}).items()}
        self._stack = ExitStack()
        self._tracker = _StorageTracker(self.device.type)
        self.peak_bytes = self.reserved_bytes = self.start_bytes = self.end_bytes = 0

    @property
    def phases(self) -> list[Phase]:
        """See the class."""
        return self._tracker.phases

    @property
    def timeline(self) -> list[int]:
        """See the class."""
        return self._tracker.timeline

    @property
    def split(self) -> dict[str, int]:
        """The bytes at the peak by kind."""
        return max(self.phases, key=lambda phase: phase.peak_bytes).split

    def mark(self, name: str) -> None:
        """Begin a phase, or rename the one that has only begun. One of that name goes on."""
        self._tracker.mark(name)

    def assign(self, tensor: Tensor, kind: str) -> None:
        """Count the storage of `tensor`, if it is counted, as of another kind from now on."""
        self._tracker.assign(tensor, kind)

    def __enter__(self) -> 'PeakMemory':
        self._stack.enter_context(self._tracker)
        for kind, tensors in self._tensors.items():
            for tensor in tensors:
                self._tracker.track(tensor, kind)
        self._tensors.clear()  # the meter keeps nothing alive
        self._tracker.begin()
        self.start_bytes = self._tracker.live_bytes
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start_bytes = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._tracker.forget()
        self.peak_bytes = max(phase.peak_bytes for phase in self.phases)
        self.end_bytes = self._tracker.live_bytes
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
            self.reserved_bytes = torch.cuda.max_memory_reserved(self.device)
            self.end_bytes = torch.cuda.memory_allocated(self.device)


def training_tensors(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, list[Tensor]]:
    """Bytes that a model holds between two steps, by kind: weights with buffers, gradients, the optimizer's state."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in ('weights', 'auxiliary', 'gradients', 'optimizer')}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found['auxiliary' if is_auxiliary_key(name) else 'weights'].append(tensor)
        if tensor.grad is not None:
            found['gradients'].append(tensor.grad)
    if optimizer is not None:
        state = tree_leaves(list(optimizer.state.values()))
        found['optimizer'] += (leaf for leaf in state if isinstance(leaf, Tensor))
    return found


class _StorageTracker(TorchDispatchMode):
    """Follows storages through every operator. Autograd runs the backward of a graph under it, too."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.live_bytes = 0
        self.live: Counter[str] = Counter()
        self.timeline: list[int] = []
        self.phases = [Phase('')]
        self._known: dict[int, tuple[int, str | None, weakref.finalize]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.lift_fresh.default:  # its input is the new tensor that torch.tensor() made
            for leaf in tree_leaves((args, kwargs)):
                self.track(leaf, None)  # unknown so far, so it is older than the block
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self.track(leaf, 'activations')
        return result

    def track(self, leaf: Any, kind: str | None) -> None:
        """Follow the storage of a tensor; one of no kind is older than the block, and does not count."""
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided or leaf.device.type != self.device_type:
            return
        storage = leaf.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            before, known_kind, finalizer = self._known[key]
            if known_kind is None or before == size:  # before the block, or not resized
                return
            self._known[key] = (size, known_kind, finalizer)
            self._add(known_kind, size - before)
            return
        self._known[key] = (size, kind, weakref.finalize(storage, self._release, key))
        if kind is not None:
            self._add(kind, size)

    def assign(self, tensor: Tensor, kind: str) -> None:
        """See `PeakMemory.assign`."""
        key = tensor.untyped_storage()._cdata
        size, before, finalizer = self._known.get(key, (0, None, None))
        if before is not None:
            self._known[key] = (size, kind, finalizer)
            self.live[before] -= size
            self.live[kind] += size

    def begin(self) -> None:
        """What is followed so far was there when the block began."""
        self.timeline.clear()
        self.phases = [Phase('', 0, self.live_bytes, dict(self.live))]

    def mark(self, name: str) -> None:
        """See `PeakMemory.mark`."""
        if self.phases[-1].name == name:
            return
        if self.phases[-1].start == len(self.timeline):
            self.phases.pop()
        self.phases.append(Phase(name, len(self.timeline), self.live_bytes, dict(self.live)))

    def _add(self, kind: str, size: int) -> None:
        if size == 0:
            return
        self.live[kind] += size
        self.live_bytes += size
        self.timeline.append(self.live_bytes)
        phase = self.phases[-1]
        if self.live_bytes > phase.peak_bytes:
            phase.peak_bytes, phase.split = self.live_bytes, dict(self.live)

    def _release(self, key: int) -> None:
        size, kind, _ = self._known.pop(key)
        if kind is not None:
            self._add(kind, -size)

    def forget(self) -> None:
        """Stop to follow."""
        for _, _, finalizer in self._known.values():
            finalizer.detach()
        self._known.clear()
