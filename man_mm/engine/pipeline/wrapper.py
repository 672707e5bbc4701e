"""LocalPipeline: every process trains its own modules of one model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device
from mmengine.logging import print_log
from torch import Tensor, nn

from ...keys import count, strict_keys
from ...local import Activation, LocalStep, find_local_backbone, train_modules
from ...registry import MODEL_WRAPPERS
from ..optim_wrapper import LocalOptimWrapper
from .alone import alone, group_of_one
from .checks import refuse_dependence
from .messages import Inbox, Outbox
from .ownership import Ownership, named_tensors, to_cpu
from .spread import BALANCED, check_split, module_flops, spread
from .stand_in import stand_in

__all__ = ['LocalPipeline']

TAP, BRANCH = 'tap.', 'x.'


@dataclass(frozen=True)
class Handover:
    """Tensors that the modules of a process leave to those of the next one, all detached.

    Args:
        x: The input of its first module.
        taps: What the bank holds.
    """

    x: Activation
    taps: Mapping[str, Tensor]


@MODEL_WRAPPERS.register_module()
@strict_keys
class LocalPipeline(nn.Module):
    """Spreads the modules of a `LocalBackbone` over the processes of torch.distributed.

    The first process reads a batch, trains its modules by their local losses, and sends the output of the last of them,
    the bank, inputs and targets on; the last process has the main loss too. No gradient comes back, so no process waits
    for a later one: it may be `in_flight` batches ahead, and the result is still that of one process on the same
    batches, step by step (staleness 0). It is exact unless the model draws random numbers in its forward, e.g. for
    dropout, of which each process has a series of its own.

    That needs every parameter to be trained in one process. Neck, head or tail that local losses share with the model
    are refused: their gradients would have to be summed over all processes before any of them could begin its next
    step, so nothing would overlap, and running statistics in them would see batches in another order. Auxiliaries that
    modules share (`share='stage'`) stay in one process.

    A batch of the data loader is a micro-batch; `optim_wrapper.accumulative_counts` of them make a step. A process
    holds all weights, but gradients, optimizer state and activations of its own modules only. Weights and running
    statistics of other modules are old ones until `gather`.

    Args:
        module: The model.
        split: `flops` measures the first batch and makes the costliest process as cheap as can be; a list says how many
            modules each process has.
        in_flight: Batches that a process may have sent and the next one not yet received. Each holds memory.

    Raises:
        ValueError: If an argument is out of range, or there is no process group.
    """

    given_keys: ClassVar[tuple[str, ...]] = ('module',)
    knows_modules: ClassVar[bool] = True
    """See `LocalDistributedDataParallel`: no other process needs a gradient."""

    def __init__(self, module: nn.Module, split: str | Sequence[int] = BALANCED, in_flight: int = 2) -> None:
        super().__init__()
        group = dist.group.WORLD if dist.is_initialized() else None
        if group is None:
            raise ValueError("model_wrapper_cfg.type='man_mm.LocalPipeline' needs processes: --launcher pytorch.")
        count('model_wrapper_cfg.in_flight', in_flight)
        self.module: Any = module
        self.split = split
        self.process, self.num_processes = dist.get_rank(), dist.get_world_size()
        self.bounds: tuple[int, ...] = ()
        """Process p trains modules bounds[p] to bounds[p + 1] - 1; known from the first step on."""
        self._ownership: Ownership | None = None
        self._is_started = False
        self._group = group
        self._own_group = group_of_one()
        self._inbox = Inbox(group, self.process - 1)
        self._outbox = Outbox(group, self.process + 1, in_flight)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own."""
        return self.module(*args, **kwargs)

    def val_step(self, data: Any) -> Any:
        """The model's own."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """The model's own."""
        return self.module.test_step(data)

    @property
    def seconds_waited(self) -> float:
        """Seconds that this process has spent waiting for its neighbours."""
        return self._inbox.waited + self._outbox.waited

    def start(self, optim_wrapper: LocalOptimWrapper) -> None:
        """Check the set-up, for which the feature bank's hook is bound, and begin with the first process' weights.

        Raises:
            ValueError: If modules are too few, or a process would depend on a later one.
        """
        backbone = find_local_backbone(self.module)
        check_split(backbone, self.split, self.num_processes)
        refuse_dependence(self.module, backbone, optim_wrapper)
        for _, tensor in named_tensors(self.module):
            dist.broadcast(tensor.detach(), 0, group=self._group)
        self._is_started = True

    def train_step(self, data: Any, optim_wrapper: LocalOptimWrapper) -> dict[str, Tensor]:
        """Train this process' modules on a batch.

        Args:
            data: A batch of the data loader in the first process; the others look at none.
            optim_wrapper: Has all parameters, and steps those that get gradients: this process' own.

        Returns:
            What to log of the main loss, in the last process.
        """
        if not self._is_started:
            raise ValueError("custom_hooks lacks dict(type='man_mm.PipelineHook').")
        handover = None
        if self.process == 0:
            data = self.module.data_preprocessor(data, True)
        if self._ownership is None:
            self._settle(data, optim_wrapper)
        if self.process > 0:
            data, handover = self._receive()
        losses, handover = self._forward(data, handover, optim_wrapper)
        if handover is not None:
            self._send(data, handover)
            # the gradients are there already: a loss of nothing counts and steps as the main loss does
            optim_wrapper.update_params(torch.zeros((), device=self._device, requires_grad=True))
            return {}
        loss, log_vars = self.module.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return dict(log_vars)

    def _forward(
        self, data: Mapping[str, Any], handover: Handover | None, optim_wrapper: LocalOptimWrapper
    ) -> tuple[dict[str, Any], Handover | None]:
        """Run and train this process' modules: return the main losses, or what the next process needs.

        The model is called all the same, for what listens to its forward. In the last process its backbone begins at
        this process' first module; in the others the modules stand in for the model's whole forward.
        """
        backbone = find_local_backbone(self.module)
        modules = backbone.local_modules[slice(*self.bounds[self.process : self.process + 2])]

        def begin(images: Tensor) -> tuple[Activation, LocalStep]:
            assert backbone.step is not None
            if handover is None:
                return images, backbone.step
            backbone.step.bank.restore(handover.taps)
            return handover.x, backbone.step

        def train(inputs: Any, data_samples: Any = None, mode: str = 'loss') -> Handover:
            x, step = begin(inputs)
            return Handover(train_modules(modules, backbone.backbone, x, step), step.bank.taps())

        def train_and_finish(images: Tensor) -> Any:
            return backbone.train_and_finish(modules, *begin(images))

        is_last = self.process == self.num_processes - 1
        standing_in = stand_in(backbone, train_and_finish) if is_last else stand_in(self.module, train)
        with alone(self._own_group), optim_wrapper.optim_context(self.module), standing_in:
            result = self.module(**data, mode='loss')
        return (result, None) if is_last else ({}, result)

    def _settle(self, data: Any, optim_wrapper: LocalOptimWrapper) -> None:
        """Spread the modules, by what the first process measures on its batch."""
        backbone = find_local_backbone(self.module)
        costs = torch.zeros(backbone.num_modules, dtype=torch.int64)
        if self.split == BALANCED:
            if self.process == 0:
                with alone(self._own_group):
                    costs = torch.tensor(module_flops(self.module, backbone, data))
            costs = costs.to(get_comm_device(self._group))
            dist.broadcast(costs, 0, group=self._group)
        self.bounds = spread(backbone, self.split, self.num_processes, costs.tolist())
        self._ownership = Ownership(self.module, backbone, self.bounds, self._group)
        self._ownership.drop_foreign_state(optim_wrapper.optimizer)
        print_log(f'LocalPipeline: processes begin at modules {self.bounds[:-1]}.', logger='current')

    def _send(self, data: Mapping[str, Any], handover: Handover) -> None:
        branches = (handover.x,) if isinstance(handover.x, Tensor) else handover.x
        tensors = {f'{BRANCH}{i}': branch for i, branch in enumerate(branches)}
        tensors |= {TAP + name: tap for name, tap in handover.taps.items()}
        note = isinstance(handover.x, Tensor), to_cpu(data['data_samples'])
        self._outbox.send(note, {'inputs': data['inputs'], **tensors})

    def _receive(self) -> tuple[dict[str, Any], Handover]:
        (is_tensor, targets), tensors = self._inbox.receive()
        tensors = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        taps = {name.removeprefix(TAP): tap for name, tap in tensors.items() if name.startswith(TAP)}
        data = dict(inputs=tensors['inputs'], data_samples=self.module.data_preprocessor.cast_data(targets))
        branches = tuple(tensor for name, tensor in tensors.items() if name.startswith(BRANCH))
        return data, Handover(branches[0] if is_tensor else branches, taps)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.module.parameters())).device

    def gather(self, *averages: nn.Module) -> None:
        """Bring weights and buffers of all modules to all processes. Each calls it.

        Args:
            averages: Other models of the same names in which they are to come together too.
        """
        self._outbox.flush()
        if self._ownership is not None:
            for model in (self.module, *averages):
                self._ownership.gather(model)

    @contextmanager
    def whole_state(self, optim_wrapper: LocalOptimWrapper) -> Iterator[None]:
        """Inside, the first process has the optimizer state of all modules. Each calls it."""
        whole = self._ownership.whole_state(optim_wrapper.optimizer) if self._ownership is not None else nullcontext()
        with whole:
            yield
