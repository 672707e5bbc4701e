"""Batches on their way from a process to the next one."""

import pickle
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device
from torch import Tensor

__all__ = ['Inbox', 'Outbox']


class Outbox:
    """Sends messages in order, without waiting for their arrival.

    A message is the length of a note, the note, and tensors that the note describes: three kinds of point-to-point
    messages on the group's own device, which NCCL and gloo know alike.

    Args:
        group: The processes.
        target: Global rank of the one that receives.
        limit: Messages that may be on their way; one more waits until the first of them has arrived.
    """

    def __init__(self, group: dist.ProcessGroup, target: int, limit: int) -> None:
        self._group = group
        self._target = target
        self._limit = limit
        self._on_their_way: deque[tuple[list[dist.Work], list[Tensor]]] = deque()
        self.waited = 0.0
        """Seconds in which this process waited for the next one."""

    def send(self, note: Any, tensors: Mapping[str, Tensor]) -> None:
        """Send what pickles, and detached tensors, which must not change afterwards. Equal views are sent once."""
        device = get_comm_device(self._group)
        places = {name: _place(tensor) for name, tensor in tensors.items()}
        firsts = {place: name for name, place in reversed(places.items())}
        described = {name: (tuple(tensors[name].shape), tensors[name].dtype) for name in firsts.values()}
        letter = pickle.dumps((note, described, {name: firsts[place] for name, place in places.items()}))
        body = torch.frombuffer(bytearray(letter), dtype=torch.uint8).to(device)
        head = torch.tensor([len(letter)], device=device)
        parts = [head, body, *(tensors[name].detach().to(device).contiguous() for name in described)]
        works = [cast(dist.Work, dist.isend(part, self._target, group=self._group)) for part in parts]
        self._on_their_way.append((works, parts))  # the tensors must live until they have arrived
        self._forget(self._limit)

    def flush(self) -> None:
        """Wait until all messages have arrived."""
        self._forget(0)

    def _forget(self, limit: int) -> None:
        start = time.perf_counter()
        while self._on_their_way and (len(self._on_their_way) > limit or self._has_arrived()):
            works, _ = self._on_their_way.popleft()
            for work in works:
                work.wait()
        self.waited += time.perf_counter() - start

    def _has_arrived(self) -> bool:
        return all(work.is_completed() for work in self._on_their_way[0][0])


class Inbox:
    """Receives what an `Outbox` sends.

    Args:
        group: The processes.
        source: Global rank of the one that sends.
    """

    def __init__(self, group: dist.ProcessGroup, source: int) -> None:
        self._group = group
        self._source = source
        self.waited = 0.0
        """Seconds in which this process waited for the one before."""

    def receive(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the next note, and the tensors by name, on the group's device."""
        start = time.perf_counter()
        head = self._receive([((1,), torch.int64)])[0]
        body = self._receive([((int(head),), torch.uint8)])[0]
        note, described, firsts = pickle.loads(body.cpu().numpy().tobytes())
        tensors = dict(zip(described, self._receive(list(described.values())), strict=True))
        self.waited += time.perf_counter() - start
        return note, {name: tensors[first] for name, first in firsts.items()}

    def _receive(self, kinds: list[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
        device = get_comm_device(self._group)
        tensors = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in kinds]
        works = [cast(dist.Work, dist.irecv(tensor, self._source, group=self._group)) for tensor in tensors]
        for work in works:
            work.wait()
        return tensors


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and as what."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
