"""LocalDistributedDataParallel: gradients of a module travel between processes while the next module runs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..keys import strict_keys, switch
from ..local import find_local_backbone
from ..registry import MODEL_WRAPPERS

__all__ = ['LocalDistributedDataParallel']


@MODEL_WRAPPERS.register_module()
@strict_keys
class LocalDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` that averages the gradients of each module as soon as its local backward ends.

    Plain DDP averages all gradients in the main loss's backward, and so keeps those of all modules until then. Here DDP
    has what the main loss trains (the last module, and neck, heads and tail that modules share with it); any other
    module is averaged in one message, with the auxiliary that no later one uses, while the next module runs. That makes
    `optim_wrapper.eager_step` legal in distributed training: a module is stepped when its gradients have arrived,
    right before the next module's backward.

    A parameter that gets no gradient in any process keeps none, as with `find_unused_parameters`, so the optimizer
    passes over it.

    Args:
        module: The model, with a `LocalBackbone`.
        broadcast_buffers: As in DDP; off by default, as in MMEngine.
        find_unused_parameters: As in DDP, for what the main loss trains; modules do not need it.

    Raises:
        ValueError: If `static_graph` is on: DDP would count the local losses of shared heads into the graph.
    """

    given_keys: ClassVar[tuple[str, ...]] = ('module',)
    knows_modules: ClassVar[bool] = True
    """Whether gradients that are made inside of the forward come to all processes that need them."""

    def __init__(self, module: nn.Module, *args: Any, broadcast_buffers: bool = False, **kwargs: Any) -> None:
        if switch('model_wrapper_cfg.static_graph', kwargs.get('static_graph', False)):
            raise ValueError(
                'model_wrapper_cfg.static_graph must be off: shared heads get gradients from local losses too.'
            )
        backbone = find_local_backbone(module)
        own = [list(_trainable(module.parameters(backbone.backbone))) for module in backbone.local_modules[:-1]]
        names = {p: name for name, p in module.named_parameters()}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            module, [names[p] for parameters in own for p in parameters]
        )
        super().__init__(module, *args, broadcast_buffers=broadcast_buffers, **kwargs)
        self._messages = _Messages(own, self.process_group)
        self._messages.broadcast()

    def reduce_module(self, module: int) -> None:
        """Start to average the gradients of what a module is the last one to train.

        Until `wait_for_modules` returns, the gradients of these parameters are not to be read. Does nothing inside
        `no_sync`.
        """
        if self.require_backward_grad_sync:
            self._messages.send(module)

    def wait_for_modules(self) -> None:
        """Return when the gradients of all modules so far are averages over the processes."""
        self._messages.wait()

    def forget_modules(self) -> None:
        """Drop what a step that failed has left on its way."""
        self._messages.forget()

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of gradients on their way now."""
        return self._messages.nbytes


class _Messages:
    """The gradients of modules, on their way between processes.

    Args:
        own: Trainable parameters of each module but the last one. Every process sends the same ones in the same order.
        group: Processes to average over.
    """

    def __init__(self, own: Sequence[Sequence[nn.Parameter]], group: Any) -> None:
        self._own = own
        self._group = group
        self._on_their_way: list[tuple[_Message, dist.Work]] = []

    def broadcast(self) -> None:
        """Start every process from the parameters of the first one, as DDP does for what it has."""
        source = dist.get_global_rank(self._group, 0)
        for parameters in self._own:
            for p in parameters:
                dist.broadcast(p.detach(), source, group=self._group)

    def send(self, module: int) -> None:
        def kind(p: nn.Parameter) -> tuple[str, str]:
            return str(p.dtype), str(p.device)

        for _, alike in groupby(sorted(self._own[module], key=kind), key=kind):
            message = _Message(list(alike), self._group.size())
            work = cast(dist.Work, dist.all_reduce(message.flat, group=self._group, async_op=True))
            self._on_their_way.append((message, work))

    def wait(self) -> None:
        for message, work in self._on_their_way:
            work.wait()
            message.open()
        self._on_their_way.clear()

    def forget(self) -> None:
        self._on_their_way.clear()

    @property
    def nbytes(self) -> int:
        return sum(message.flat.nbytes for message, work in self._on_their_way if not work.is_completed())


class _Message:
    """Gradients of parameters of one kind in one flat tensor, of which they become views: no second copy stays.

    It ends in one number a parameter: the share of the processes in which the parameter has a gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world_size: int) -> None:
        self._parameters = parameters
        self._has_gradient = [p.grad is not None for p in parameters]
        pieces = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        self.flat = torch.cat([*pieces, parameters[0].new_tensor(self._has_gradient)]).div_(world_size)
        for p, grad in zip(parameters, self._views(), strict=True):
            p.grad = grad

    def _views(self) -> Iterator[Tensor]:
        sizes = [p.numel() for p in self._parameters]
        pieces = self.flat[: sum(sizes)].split(sizes)
        return (piece.view(p.shape) for piece, p in zip(pieces, self._parameters, strict=True))

    def open(self) -> None:
        """Take the gradient from what no process has one for; asks the device only if this process lacks one."""
        if all(self._has_gradient):
            return
        shares = self.flat[-len(self._parameters) :].tolist()
        for p, share in zip(self._parameters, shares, strict=True):
            if share == 0:
                p.grad = None


def _trainable(parameters: Iterator[nn.Parameter]) -> Iterator[nn.Parameter]:
    return (p for p in parameters if p.requires_grad)
