"""The one memory meter of this package: peak bytes of live tensors while a block of code runs."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ['PeakMemory', 'training_tensors']


class PeakMemory:
    """Context manager: the highest number of bytes that live tensors held at once inside the `with` block.

    On the CPU it counts, exact to the byte and the same on every run, the storages made inside the block as results of
    operators, also in backward, plus those of `tensors`. A storage counts once however many views it has, and until
    its last user lets go of it. Scratch buffers that a kernel allocates and frees within itself do not show, so use it
    for comparisons, not as the resident size of a process. On CUDA it is the caching allocator's peak of allocated
    bytes; that includes whatever else the process holds on the device.

    Args:
        tensors: What was there before and belongs to the measured thing, see `training_tensors`.
        device: Where the block computes.

    Attributes:
        peak_bytes (int): The peak, known when the block has ended.
        start_bytes (int): What was counted when the block began.
        end_bytes (int): What was still counted when the block ended.

    Raises:
        ValueError: If `device` is neither a CPU nor a CUDA device.
    """

    def __init__(self, tensors: Iterable[Tensor] = (), device: torch.device | str = 'cpu') -> None:
        self.device = torch.device(device)
        if self.device.type not in ('cpu', 'cuda'):
            raise ValueError(f"device={str(device)!r} cannot be metered: it must be 'cpu' or 'cuda'.")
        self._tensors = list(tensors)
        self._stack = ExitStack()
        self._tracker: _StorageTracker | None = None
        self.peak_bytes = self.start_bytes = self.end_bytes = 0

    def __enter__(self) -> Self:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start_bytes = torch.cuda.memory_allocated(self.device)
        else:
            self._tracker = self._stack.enter_context(_StorageTracker(self._tensors))
            self.start_bytes = self._tracker.live_bytes
        self._tensors.clear()  # the meter keeps nothing alive
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is None:
            torch.cuda.synchronize(self.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
            self.end_bytes = torch.cuda.memory_allocated(self.device)
            return
        self._stack.close()
        self.peak_bytes, self.end_bytes = self._tracker.peak_bytes, self._tracker.live_bytes
        self._tracker.forget()


def training_tensors(model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[Tensor]:
    """Yield what a model holds between two steps: parameters, their gradients, buffers, the optimizer's state."""
    for parameter in model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from model.buffers()
    if optimizer is not None:
        yield from (leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))


class _StorageTracker(TorchDispatchMode):
    """Follows storages through every operator. Autograd runs the backward of CPU graphs under it, too."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: dict[int, tuple[int, weakref.finalize]] = {}
        for tensor in tensors:
            self._track(tensor, counts=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.lift_fresh.default:  # its input is the new tensor that torch.tensor() made
            for leaf in tree_leaves((args, kwargs)):
                self._track(leaf, counts=False)  # unknown so far, so it is older than the block
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self._track(leaf, counts=True)
        return result

    def _track(self, leaf: Any, counts: bool) -> None:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided or leaf.device.type != 'cpu':
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        size = storage.nbytes()
        if key in self._known:
            before, finalizer = self._known[key]
            if before < 0 or before == size:  # before the block, or not resized
                return
            self._add(size - before)
            self._known[key] = (size, finalizer)
            return
        self._known[key] = (size if counts else -1, weakref.finalize(storage, self._release, key))
        self._add(size if counts else 0)

    def _add(self, size: int) -> None:
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _release(self, key: int) -> None:
        size, _ = self._known.pop(key)
        self.live_bytes -= max(size, 0)

    def forget(self) -> None:
        """Stop to follow."""
        for _, finalizer in self._known.values():
            finalizer.detach()
        self._known.clear()
