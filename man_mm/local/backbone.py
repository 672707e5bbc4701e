"""LocalBackbone: the wrapped backbone, trained module by module."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from ..keys import count, strict_keys, switch
from ..registry import MODELS
from .bank import FeatureBank
from .bfloat16 import warn_of_bfloat16
from .dry_run import activation_bytes, image_size, unit_shapes
from .heads import on_sibling
from .module import LocalModule, build_modules
from .partition import Partition, partition
from .step import LocalStep, phase, train_modules
from .transparent_wrapper import TransparentWrapper
from .units import Activation, Unrolled
from .unroll import unroll

__all__ = ['LocalBackbone', 'find_local_backbone']

DEFAULT_SIZE = 256, 256
OWN = 'own'

Probed = TypeVar('Probed')


@MODELS.register_module()
@strict_keys
class LocalBackbone(TransparentWrapper):
    """Wraps a backbone; in training, cuts it into K gradient-isolated modules, each with an auxiliary network.

    Outside of training with a local optim wrapper its forward is the wrapped backbone's. Its state dict has the wrapped
    backbone's keys, and `auxiliaries.*`; attributes of the wrapped backbone are read and written through it.

    Args:
        backbone: Config of the backbone to wrap.
        num_modules: K. 1 is plain back-propagation.
        auxiliary: Config of the network that trains a module, e.g. `dict(type='man_mm.SLM', neck=...)`.
        partition: `uniform`, `memory`, or the names of the units that end modules 0 to K - 2.
        bank: False keeps the taps of earlier modules from the auxiliaries, which see zeros instead.
        probe_size: Height and width of the training images in px, for `partition='memory'` and for auxiliaries whose
            layers depend on shapes (`man_mm.PredSim`; `man_mm.DGLPyramid` on ratios of sizes; `bank_vectors` on
            channels). By default the `img_size` of the wrapped backbone, or 256 by 256 where it has none.
        share: `none` gives every module an auxiliary of its own, as the paper does. `stage`: modules in a row that end
            in one stage, and whose auxiliaries differ in nothing but what they mirror, use the first one's. Its
            gradients are the sum over these modules, its running statistics see all of them.
        tail_chunks: Run the backbone's own layers after the last unit, e.g. EDSR's upsampler, on that many parts of
            the batch, one after the other, and recompute them in backward: only one part's activations are ever alive.
            For layers that look at one image at a time.
        pretrained: Weights for the wrapped backbone, by its own key of that name: where models of MMSegmentation put
            theirs (`model.pretrained`).
        init_cfg: Laid over the wrapped backbone's own, as an override of the plain config would be: keys replace its
            keys, None drops it. `own` leaves it as it is.

    Attributes:
        local_modules (tuple[LocalModule, ...]): The K modules in order.
        auxiliaries (ModuleList): What trains them, each once.
        unread (frozenset[str]): Taps of which neither the model nor an auxiliary reads the values.
        step (LocalStep | None): The training step under way; None: the forward is the wrapped backbone's.

    Raises:
        ValueError: If the backbone cannot be unrolled, or an argument is out of range.
    """

    key_hint = 'Those of the wrapped backbone stand one level lower: model.backbone.backbone.KEY.'

    def __init__(
        self,
        backbone: dict[str, Any],
        num_modules: int,
        auxiliary: dict[str, Any] | None = None,
        partition: str | Sequence[str] = 'uniform',
        bank: bool = True,
        probe_size: tuple[int, int] | None = None,
        share: str = 'none',
        tail_chunks: int = 1,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | list[Any] | str | None = OWN,
    ) -> None:
        if pretrained is not None:
            backbone = {**backbone, 'pretrained': pretrained}
        super().__init__(MODELS.build(_started_by(backbone, init_cfg)))
        own_size = image_size(backbone.get('img_size', getattr(self.backbone, 'img_size', None)))
        self.unrolled: Unrolled = unroll(self.backbone, own_size)
        probe_size = probe_size or own_size or DEFAULT_SIZE
        self.partition = self._cut(num_modules, partition, probe_size)
        self.lends_bank = switch('bank', bank)
        self.local_modules, self.auxiliaries = build_modules(
            self.backbone,
            self.unrolled,
            self.partition,
            auxiliary,
            share,
            lambda: self._probed(unit_shapes, probe_size),
        )
        self.tail_chunks = self._checked_tail_chunks(tail_chunks)
        reads_pooled = any(auxiliary.reads_pooled for auxiliary in self.auxiliaries)
        self.banked = {unit.tap: unit for unit in self.unrolled.units if unit.tap and (reads_pooled or not unit.pooled)}
        self.unread: frozenset[str] = frozenset()
        self.step: LocalStep | None = None
        if any(auxiliary.head != 'shared' for auxiliary in self.auxiliaries):
            on_sibling(self, LocalBackbone._adopt_head)
        self.complete = True

    def _cut(self, num_modules: int, policy: str | Sequence[str], probe_size: tuple[int, int]) -> Partition:
        units = self.unrolled.units
        frozen = [not any(p.requires_grad for p in unit.parameters(self.backbone)) for unit in units]
        costs = self._probed(activation_bytes, probe_size) if policy == 'memory' else None
        result = partition([unit.name for unit in units], num_modules, policy, frozen, costs)
        for note in result.notes:
            print_log(f'LocalBackbone: {note}', logger='current', level=logging.WARNING)
        return result

    def _probed(
        self, measure: Callable[[nn.Module, Unrolled, tuple[int, int]], Probed], size: tuple[int, int]
    ) -> Probed:
        try:
            return measure(self.backbone, self.unrolled, size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f'LocalBackbone.probe_size={size}: {type(self.backbone).__name__} does not run on an image of that '
                f'height and width in px ({error}). Set it to those of the training images.'
            ) from error

    def _checked_tail_chunks(self, tail_chunks: int) -> int:
        if count('tail_chunks', tail_chunks) > 1 and (self.num_modules == 1 or not self.unrolled.tail):
            raise ValueError(
                f'tail_chunks={tail_chunks} has nothing to act on: num_modules={self.num_modules}, and '
                f'{type(self.backbone).__name__} has the layers {list(self.unrolled.tail)} after its last unit.'
            )
        return tail_chunks

    @property
    def num_modules(self) -> int:
        """K as met; lower than asked for only when units are frozen."""
        return self.partition.num_modules

    def new_bank(self) -> FeatureBank:
        """An empty bank for the taps that auxiliaries and the model read."""
        return FeatureBank({name: unit.pooled for name, unit in self.banked.items()}, self.lends_bank, self.unread)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the wrapped backbone returns for images `x` (N, C, H, W).

        In a training step, every module but the last one has then been back-propagated, and the result carries the
        graph of the last module only.

        Args:
            x: Images.
            args: Further arguments of the wrapped backbone's forward; none in a training step.
            kwargs: The same, by name.

        Raises:
            ValueError: If there are any in a training step.
        """
        if not (self.training and torch.is_grad_enabled()):
            return self.backbone(x, *args, **kwargs)
        warn_of_bfloat16(x)
        if self.num_modules > 1 and self.step is None:
            _refuse_plain_training()
        if self.num_modules == 1 or self.step is None:
            return self.backbone(x, *args, **kwargs)
        if args or kwargs:
            raise ValueError(
                f'the model calls its backbone with {len(args) + len(kwargs)} more arguments than images '
                f'({", ".join(kwargs) or type(args[0]).__name__}), which modules do not take.'
            )
        return self.train_and_finish(self.local_modules, x, self.step)

    def train_and_finish(self, modules: Sequence[LocalModule], x: Activation, step: LocalStep) -> Any:
        """Train `modules`, which end with the last one, on `x`; return what the wrapped backbone returns.

        Raises:
            ValueError: If a local loss of the same step has asked for it.
        """
        if step.is_running:
            raise ValueError(
                'the model runs its backbone inside a local loss: its readout must stand in for that call.'
            )
        *earlier, last = modules
        step.is_running = True
        try:
            x = train_modules(earlier, self.backbone, x, step)
        finally:
            step.is_running = False
        with phase('forward', last):
            x, taps = last.run(self.backbone, x)
            return self.unrolled.finish_in_parts(self.backbone, x, step.bank.taps() | taps, self.tail_chunks)

    def _adopt_head(self, name: str, sibling: nn.Module) -> None:
        for auxiliary in self.auxiliaries:
            auxiliary.adopt_head(name, sibling)

    def init_weights(self) -> None:
        """Initialise the wrapped backbone as upstream does, then the auxiliaries, which may copy from it."""
        super().init_weights()
        for auxiliary in self.auxiliaries:
            auxiliary.mirror(self.backbone)

    def move_followers(self) -> None:
        """After a step of the optimizer: move what follows weights of the wrapped backbone towards them."""
        for auxiliary in self.auxiliaries:
            auxiliary.follow_weights(self.backbone)

    def train(self, mode: bool = True) -> 'LocalBackbone':
        """Set the mode; copied layers follow the layers they mirror (`norm_eval`, frozen stages)."""
        super().train(mode)
        for auxiliary in self.auxiliaries:
            auxiliary.follow_mode(self.backbone)
        return self


def _started_by(backbone: dict[str, Any], init_cfg: Any) -> dict[str, Any]:
    """The config of a backbone with `init_cfg` laid over its own."""
    if init_cfg == OWN:
        return backbone
    before = backbone.get('init_cfg')
    return {
        **backbone,
        'init_cfg': {**before, **init_cfg} if isinstance(before, dict) and isinstance(init_cfg, dict) else init_cfg,
    }


def _refuse_plain_training() -> None:
    """A runner that trains without a step would train by plain back-propagation."""
    if MessageHub.get_current_instance().get_info('loop_stage') == 'train':
        raise ValueError(
            "custom_hooks lacks dict(type='man_mm.FeatureBankHook'): LocalBackbone got neither the inputs and targets "
            "nor the losses that train its modules. With it, optim_wrapper.type must be 'man_mm.LocalOptimWrapper' "
            "(with --amp 'man_mm.LocalAmpOptimWrapper'); without both, LocalBackbone would train by plain "
            "back-propagation. (Where no runner trains: one that failed in this process has left loop_stage='train'; "
            "MessageHub.get_current_instance().pop_info('loop_stage') forgets it.)"
        )


def find_local_backbone(model: nn.Module) -> LocalBackbone:
    """Return the one `LocalBackbone` inside `model` that trains.

    Raises:
        ValueError: If there is none, or more than one.
    """
    found = [module for module in model.modules() if isinstance(module, LocalBackbone)]
    if len(found) > 1:  # copies that follow by momentum are frozen
        found = [module for module in found if any(p.requires_grad for p in module.parameters())] or found
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} backbones of type man_mm.LocalBackbone, but local learning needs '
            "exactly one: set model.backbone=dict(type='man_mm.LocalBackbone', backbone=..., num_modules=..., "
            'auxiliary=...).'
        )
    return found[0]
