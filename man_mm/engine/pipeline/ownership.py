"""Which process has the truth about which tensor, and how it comes to the others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.optim import Optimizer

from ...local import LocalBackbone, LocalModule

__all__ = ['Ownership', 'named_tensors', 'to_cpu']


class Ownership:
    """The parameters, buffers and optimizer state of a model whose modules several processes train.

    A module and its auxiliary belong to the process that runs it; all the rest to the last one, with the main loss. All
    methods are for all processes at once.

    Args:
        host: The model.
        backbone: Its backbone.
        bounds: Process p runs modules bounds[p] to bounds[p + 1] - 1.
        group: The processes.
    """

    def __init__(
        self, host: nn.Module, backbone: LocalBackbone, bounds: Sequence[int], group: dist.ProcessGroup
    ) -> None:
        self._group = group
        last = len(bounds) - 2
        owner = {
            id(tensor): process
            for process in range(last + 1)
            for module in backbone.local_modules[bounds[process] : bounds[process + 1]]
            for tensor in _tensors_of(module, backbone.backbone)
        }
        self._owner = {name: owner.get(id(tensor), last) for name, tensor in named_tensors(host)}
        self._own = {p for name, p in host.named_parameters() if self._owner[name] == dist.get_rank()}

    def gather(self, model: nn.Module) -> None:
        """Bring all weights and buffers to all processes, of the model or one of the same names, e.g. its average."""
        for name, tensor in named_tensors(model):
            dist.broadcast(tensor.detach(), self._owner[name], group=self._group)

    @contextmanager
    def whole_state(self, optimizer: Optimizer) -> Iterator[None]:
        """Inside, the first process has the state of all parameters, of those that it does not own on the CPU."""
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        own = {i: to_cpu(dict(optimizer.state[p])) for i, p in enumerate(parameters) if p in optimizer.state}
        states: list[Any] | None = [None] * self._group.size() if dist.get_rank() == 0 else None
        dist.gather_object(own, states, 0, group=self._group)
        for theirs in (states or [])[1:]:
            optimizer.state.update({parameters[index]: state for index, state in theirs.items()})
        try:
            yield
        finally:
            self.drop_foreign_state(optimizer)

    def drop_foreign_state(self, optimizer: Optimizer) -> None:
        """Forget the state of what other processes train, e.g. that of a checkpoint, which gets old."""
        for p in [p for p in optimizer.state if p not in self._own]:
            del optimizer.state[p]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def to_cpu(value: Any) -> Any:
    """Copy all tensors and data samples in nested containers to the CPU."""
    return apply_to(value, lambda item: hasattr(item, 'cpu'), lambda item: item.cpu())


def _tensors_of(module: LocalModule, net: nn.Module) -> Iterator[Tensor]:
    for unit in module.units:
        yield from unit.parameters(net)
        for path in unit.layers:
            yield from net.get_submodule(path).buffers()
    if module.auxiliary is not None:
        yield from module.auxiliary.parameters()
        yield from module.auxiliary.buffers()
