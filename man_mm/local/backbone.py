"""LocalBackbone: the wrapped backbone, trained module by module."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from ..keys import strict_keys, switch
from ..registry import MODELS
from .bank import FeatureBank
from .cost import activation_bytes
from .handover import HandedOver, Handover
from .host import on_sibling
from .out_of_memory import explain_out_of_memory
from .partition import Partition, partition
from .place import Place, unit_shapes
from .readout import Readout
from .settings import check_auxiliary, checked_tail_chunks
from .share import build_auxiliaries
from .signal import LocalBackward, current_local_backward
from .tail import finish_in_parts
from .transparent import TransparentWrapper
from .unroll import Unrolled, unroll

__all__ = ['LocalBackbone', 'find_local_backbone']


@MODELS.register_module()
@strict_keys
class LocalBackbone(TransparentWrapper):
    """Wraps a backbone; in training, cuts it into K gradient-isolated modules, each with an auxiliary network.

    Outside of training with a local optim wrapper its forward is the wrapped backbone's. Its state dict has the wrapped
    backbone's keys, and `auxiliaries.*`; its attributes fall through to the wrapped backbone.

    Args:
        backbone: Config of the backbone to wrap.
        num_modules: K. 1 is plain back-propagation.
        auxiliary: Config of the network that trains a module, e.g. `dict(type='man_mm.SLM', neck=...)`.
        partition: `uniform`, `memory`, or the names of the units that end modules 0 to K - 2.
        bank: False keeps the taps of earlier modules from the auxiliaries, which see zeros instead.
        probe_size: Height and width of the training images in px, for `partition='memory'` and for auxiliaries whose
            layers depend on it (`man_mm.PredSim`; `man_mm.DGLPyramid` on its ratios).
        share: `none` gives every module an auxiliary of its own, as the paper does. `stage`: modules in a row that end
            in one stage, and whose auxiliaries differ in nothing but what they mirror, use the first one's. Its
            gradients are the sum over these modules, its running statistics see all of them.
        tail_chunks: Run the backbone's own layers behind the last unit, e.g. EDSR's upsampler, on that many parts of
            the batch, one after the other, and recompute them in backward: only one part's activations are ever alive.
            For layers that look at one image at a time.

    Raises:
        ValueError: If the backbone cannot be unrolled, or an argument is out of range.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        num_modules: int,
        auxiliary: dict[str, Any] | None = None,
        partition: str | Sequence[str] = 'uniform',
        bank: bool = True,
        probe_size: tuple[int, int] = (256, 256),
        share: str = 'none',
        tail_chunks: int = 1,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(MODELS.build(backbone), init_cfg)
        self.unrolled: Unrolled = unroll(self.backbone)
        self.partition = self._cut(num_modules, partition, probe_size)
        self.bank = FeatureBank(switch('bank', bank))
        self.readout: Readout | None = None
        self.handover: Handover | None = None
        """Where a training forward begins, if another process runs the modules before."""
        self.stop: int | None = None
        """The module at which a training forward ends, in `HandedOver`, if another process runs it."""
        self._is_learning = False
        # some families keep the switch in their blocks alone
        self._checkpoints = any(getattr(layer, 'with_cp', False) for layer in self.backbone.modules())
        check_auxiliary(auxiliary, self.num_modules)
        self.auxiliaries, self.groups = build_auxiliaries(auxiliary, self._places(probe_size), share)
        self.tail_chunks = checked_tail_chunks(
            tail_chunks, self.num_modules, type(self.backbone).__name__, self.unrolled.tail
        )
        reads_pooled = any(auxiliary.reads_pooled for auxiliary in self.auxiliaries)
        self.banked = {unit.tap: unit for unit in self.unrolled.units if unit.tap and (reads_pooled or not unit.pooled)}
        if any(auxiliary.head != 'shared' for auxiliary in self.auxiliaries):
            on_sibling(self, LocalBackbone._adopt_head)

    def _cut(self, num_modules: int, policy: str | Sequence[str], probe_size: tuple[int, int]) -> Partition:
        units = self.unrolled.units
        frozen = [not any(p.requires_grad for p in unit.parameters(self.backbone)) for unit in units]
        costs = activation_bytes(self.backbone, self.unrolled, probe_size) if policy == 'memory' else None
        result = partition([unit.name for unit in units], num_modules, policy, frozen, costs)
        for note in result.notes:
            print_log(f'LocalBackbone: {note}', logger='current', level=logging.WARNING)
        return result

    def _places(self, probe_size: tuple[int, int]) -> list[Place]:
        """Where auxiliaries stand."""
        shapes = cache(lambda: unit_shapes(self.backbone, self.unrolled, probe_size))
        modules = range(self.num_modules - 1)
        return [Place(self.backbone, self.unrolled, self.partition, module, shapes) for module in modules]

    @property
    def num_modules(self) -> int:
        """K as met; lower than asked for only when units are frozen."""
        return self.partition.num_modules

    def forward(self, x: Tensor) -> Any:
        """Return what the wrapped backbone returns for images `x` (N, C, H, W).

        In training, every module but the last one has then been back-propagated, and the result carries the graph of
        the last module only.
        """
        if self.num_modules == 1 or not (self.training and torch.is_grad_enabled()):
            return self.backbone(x)
        local_backward = current_local_backward()
        if local_backward is None:
            self._refuse_runner_without_local_wrapper()
            return self.backbone(x)
        if self.readout is None or not self.bank.is_open:
            raise ValueError(
                "custom_hooks lacks dict(type='man_mm.FeatureBankHook'): LocalBackbone got neither the inputs and "
                'targets nor the losses that train its modules.'
            )
        if self._is_learning:
            raise ValueError(
                'the model runs its backbone inside a local loss: its readout must stand in for that call.'
            )
        self._is_learning = True
        try:
            return self._forward_modules(x, local_backward, self.readout)
        finally:
            self._is_learning = False

    def _forward_modules(self, x: Tensor, local_backward: LocalBackward, readout: Readout) -> Any:
        start, stop = self.handover or Handover(0, x, {}), self.num_modules - 1
        if self.stop is not None:
            x = self.learn(start, self.stop, local_backward, readout)
            raise HandedOver(Handover(self.stop, x, self.bank.taps()))
        x = self.learn(start, stop, local_backward, readout)
        with explain_out_of_memory('forward', self.partition.name(stop)):
            x, taps = self.run_module(stop, x)
        return finish_in_parts(self.unrolled, self.backbone, x, {**self.bank.taps(), **taps}, self.tail_chunks)

    def learn(self, start: Handover, stop: int, local_backward: LocalBackward, readout: Readout) -> Tensor:
        """Run the modules from `start` on and before `stop`, train each by its local loss, bank its taps.

        Args:
            start: Where to begin. The bank is open.
            stop: Index of the first module that is not run, K - 1 at most: the main loss trains the last one.
            local_backward: Makes the gradients of a local loss.
            readout: Turns an auxiliary's features into losses.

        Returns:
            The input of module `stop`, detached.
        """
        for name, tap in start.taps.items():
            self.bank.put(name, tap)
        x = start.x
        for module in range(start.module, stop):
            x = self._learn_module(module, x, local_backward, readout)
        return x

    def _learn_module(self, module: int, x: Tensor, local_backward: LocalBackward, readout: Readout) -> Tensor:
        """Run a module on its input, train it, bank its taps; return the next one's input.

        In a scope of its own: no variable may hold a graph while the next module runs.
        """
        name = self.partition.name(module)
        with explain_out_of_memory('forward', name):
            x, taps = self.run_module(module, x)
        auxiliary = self.auxiliary_of(module)
        with readout.sharing(auxiliary), explain_out_of_memory('local loss', name):
            local_backward(self._local_losses(auxiliary, x, taps, readout), module)
        for tap, feature in taps.items():
            if tap in self.banked:
                self.bank.put(tap, feature.detach().mean((2, 3)) if self.banked[tap].pooled else feature)
        return x.detach()

    def _local_losses(self, auxiliary: Any, x: Tensor, taps: Mapping[str, Tensor], readout: Readout) -> dict[str, Any]:
        """The task's losses on a module's output `x`. The module's own `taps` carry its graph, banked ones none."""
        task = readout.task(auxiliary, self.bank.inputs, self.bank.targets)
        own = {name: tap for name, tap in taps.items() if name in self.banked and not self.banked[name].pooled}
        return auxiliary.local_losses(x, {**self.bank.lent(), **own}, task)

    def run_module(self, module: int, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run one module on its input `x`, which is detached: the only live graph is its own.

        Returns:
            Its output and the taps that it made, which carry its graph.
        """
        x = x.detach()
        if module > 0 and self._checkpoints:
            x.requires_grad_()  # upstream's blocks are checkpointed only if their input requires a gradient
        return self.unrolled.run(self.backbone, *self.partition.span(module), x)

    def _refuse_runner_without_local_wrapper(self) -> None:
        if MessageHub.get_current_instance().get_info('loop_stage') == 'train':
            raise ValueError(
                "optim_wrapper.type must be 'man_mm.LocalOptimWrapper' (with --amp 'man_mm.LocalAmpOptimWrapper'): "
                'with another one LocalBackbone would train by plain back-propagation.'
            )

    def _adopt_head(self, name: str, sibling: nn.Module) -> None:
        for auxiliary in self.auxiliaries:
            auxiliary.adopt_head(name, sibling)

    def auxiliary_of(self, module: int) -> Any:
        """The auxiliary that trains a module: of the module alone, unless they share."""
        return self.auxiliaries[self.groups[module]]

    def last_trained_parameters(self, module: int) -> Iterator[nn.Parameter]:
        """Parameters that get their last gradient from a module: of its units, and of the auxiliary that trains it,
        unless a later module uses it too.
        """
        for unit in self.unrolled.units[slice(*self.partition.span(module))]:
            yield from unit.parameters(self.backbone)
        if module < len(self.groups) and self.groups[module] not in self.groups[module + 1 :]:
            yield from self.auxiliary_of(module).parameters()

    def init_weights(self) -> None:
        """Initialise the wrapped backbone as upstream does, then the auxiliaries, which may copy from it."""
        super().init_weights()
        for auxiliary in self.auxiliaries:
            auxiliary.mirror(self.backbone)

    def train(self, mode: bool = True) -> 'LocalBackbone':
        """Set the mode; copied layers follow the layers they mirror (`norm_eval`, frozen stages)."""
        super().train(mode)
        for auxiliary in self.auxiliaries:
            auxiliary.follow_mode(self.backbone)
        return self


def find_local_backbone(model: nn.Module) -> LocalBackbone:
    """Return the one `LocalBackbone` inside `model`.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [module for module in model.modules() if isinstance(module, LocalBackbone)]
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} backbones of type man_mm.LocalBackbone, but local learning needs '
            "exactly one: set model.backbone=dict(type='man_mm.LocalBackbone', backbone=..., num_modules=..., "
            'auxiliary=...).'
        )
    return found[0]
