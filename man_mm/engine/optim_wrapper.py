"""LocalOptimWrapper: the one place where gradients of local losses are made."""

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn

from ..keys import strict_keys, switch
from ..local import LocalBackbone, LocalModule, find_local_backbone, phase
from ..registry import OPTIM_WRAPPERS
from .distributed import LocalDistributedDataParallel

__all__ = ['LocalAmpOptimWrapper', 'LocalOptimWrapper']

HELP = {
    'backward': "optim_wrapper.eager_step=True with slim auxiliaries (man_mm.SlimSLM) or share='stage': the gradients "
    'of modules before this one are freed',
    'step': "share='stage' or man_mm.SlimSLM (fewer weights, gradients, and less optimizer state), "
    'optim_wrapper.eager_step=True',
    'main loss': 'a last module that is smaller (a list of cuts as partition), man_mm.ActivationCheckpointHook on neck '
    'and head',
}
"""Levers against running out of memory, by phase."""


@OPTIM_WRAPPERS.register_module()
@strict_keys
class LocalOptimWrapper(OptimWrapper):
    """`OptimWrapper` for models with a `LocalBackbone`.

    A local loss is back-propagated at once, scaled for accumulation (and AMP) exactly as the main loss is; only the
    main loss counts as a step.

    Args:
        eager_step: Step a module and free its gradients right after its backward, instead of all modules at the end.
            With several processes it needs `man_mm.LocalDistributedDataParallel`, and a module is stepped right before
            the next one's backward: its gradients are averaged over the processes in the meantime.
        clip_grad: As in `OptimWrapper`; `per_module=True` clips every module with its auxiliary, and the rest of the
            model, by a norm of its own instead of one norm over all. The log tells these norms before clipping, and
            those of the neck and of each head apart (`grad_norm/neck`; `grad_norm/backbone_tail`: layers after the
            last unit).

    Raises:
        ValueError: If `eager_step` meets accumulation, clipping over all parameters, a loss scaler or plain DDP.
    """

    def __init__(
        self, *args: Any, eager_step: bool = False, clip_grad: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if clip_grad is not None and not isinstance(clip_grad, Mapping):
            raise ValueError(f'optim_wrapper.clip_grad={clip_grad!r} must be a dict, e.g. dict(max_norm=35).')
        clip = dict(clip_grad or {})
        self.clip_per_module = switch('optim_wrapper.clip_grad.per_module', clip.pop('per_module', False))
        super().__init__(*args, clip_grad=clip or None, **kwargs)
        self._check_clip_grad()
        self.eager_step = switch('optim_wrapper.eager_step', eager_step)
        self._refuse_eager_step_with(
            {
                f'accumulative_counts={self._accumulative_counts}': self._accumulative_counts > 1,
                'clip_grad over all parameters (set clip_grad.per_module=True)': clip and not self.clip_per_module,
                "a loss scaler, whose step is one decision for all modules (set dtype='bfloat16', "
                'loss_scale=dict(enabled=False))': isinstance(self, AmpOptimWrapper) and self.loss_scaler.is_enabled(),
            }
        )
        self.local_losses: dict[tuple[int, str], Tensor] = {}
        self._unchecked: dict[tuple[int, str], Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._backbone: LocalBackbone | None = None
        self._host: Any = None
        self._reducer: LocalDistributedDataParallel | None = None
        self._idle: set[int] = set()
        self._unfinished = False
        """Whether local losses have been back-propagated that no step has followed."""
        self._waiting: LocalModule | None = None
        """Module whose eager step waits for its gradients."""

    def _check_clip_grad(self) -> None:
        if not self.clip_grad_kwargs:
            if self.clip_per_module:
                raise ValueError(
                    'optim_wrapper.clip_grad.per_module=True needs what to clip by, e.g. dict(max_norm=35, ...).'
                )
            return
        legal = inspect.signature(self.clip_func).parameters
        unknown = sorted(set(self.clip_grad_kwargs) - set(legal))
        if unknown:
            raise ValueError(
                f'optim_wrapper.clip_grad has no key {unknown}. Its keys: {["per_module", "type", *list(legal)[1:]]}.'
            )

    def _refuse_eager_step_with(self, reasons: Mapping[str, Any]) -> None:
        for reason, holds in reasons.items():
            if self.eager_step and holds:
                raise ValueError(f'optim_wrapper.eager_step=True does not go with {reason}.')

    def bind(self, host: nn.Module) -> None:
        """Serve the unwrapped model `host`, of whose backbone `man_mm.FeatureBankHook` opens the steps."""
        self._host, self._backbone = host, find_local_backbone(host)

    def serves(self, host: nn.Module) -> bool:
        """Whether it is bound to the unwrapped model `host`."""
        return self._host is host

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As upstream's.

        Raises:
            ValueError: If nobody opens the steps of the model's `LocalBackbone`, or eager steps would not be averaged.
        """
        wrapped = is_model_wrapper(model)
        self._reducer = model if isinstance(model, LocalDistributedDataParallel) else None
        self._refuse_eager_step_with(
            {
                f'{type(model).__name__}, which averages gradients at the end of a step (set '
                "model_wrapper_cfg=dict(type='man_mm.LocalDistributedDataParallel'))": wrapped and not self._reducer
            }
        )
        host = cast(nn.Module, model.module) if wrapped else model
        if host is not self._host:
            self._bind_back_propagation(host)
        self.refuse_unfinished()
        self._forget_losses()
        with super().optim_context(model), phase('main loss', 'neck and head (forward)', HELP['main loss']):
            try:
                yield
            except BaseException:
                self._forget_failed_step()
                raise

    def _bind_back_propagation(self, host: nn.Module) -> None:
        if find_local_backbone(host).num_modules > 1:
            raise ValueError(
                "custom_hooks lacks dict(type='man_mm.FeatureBankHook'): LocalBackbone got neither the inputs and "
                'targets nor the losses that train its modules.'
            )
        self.bind(host)

    def refuse_unfinished(self) -> None:
        """Called before local losses are made.

        Raises:
            ValueError: If those of the loss before were followed by no step.
        """
        if self._unfinished:
            eager = 'and modules have been stepped by it (eager_step)' if self.eager_step else 'and no weight has moved'
            raise ValueError(
                'a loss was asked for in training mode with gradients, and no optim_wrapper.update_params followed: '
                f'the gradients of its local losses are still there, {eager}. Ask for losses that nobody steps by '
                'under torch.no_grad() or in evaluation mode; or call optim_wrapper.zero_grad() after them.'
            )

    def zero_grad(self, **kwargs: Any) -> None:
        """As upstream's; what a loss left that no step followed is forgotten, too."""
        super().zero_grad(**kwargs)
        self._unfinished = False

    def _forget_losses(self) -> None:
        self.local_losses.clear()
        self._norms.clear()
        self._unchecked.clear()

    def _forget_failed_step(self) -> None:
        self._forget_losses()
        self._unfinished = False
        self._waiting = None
        if self._reducer is not None:
            self._reducer.forget_modules()

    def local_backward(self, losses: Mapping[str, Tensor | list[Tensor]], module: LocalModule) -> None:
        """Back-propagate the local losses of `module` and free its graph.

        Args:
            losses: As a model's `loss` returns them; entries whose name contains `loss` are summed.
            module: The module that they train.
        """
        self._step_waiting()
        loss, log_vars = self._host.parse_losses(losses)
        for name, value in log_vars.items():
            self.local_losses[module.index, _local_name(name)] = value.detach()
        self._unchecked |= {key: value for key, value in self.local_losses.items() if key[0] == module.index}
        # torch < 2.11 (pytorch#158232) lets reentrant checkpoints recompute with copies of weights that carry no graph
        torch.clear_autocast_cache()
        with (
            torch.autocast(loss.device.type, enabled=False),  # backward runs in the types of the forward
            phase('backward', module, HELP['backward']),
        ):
            if loss.requires_grad:
                self._amplify(self.scale_loss(loss)).backward()
            else:
                self._tell_idle(module)
        torch.clear_autocast_cache()  # it would keep copies of all weights until the last module has run
        if self._reducer is not None:
            self._reducer.reduce_module(module.index)
        if self.eager_step:
            self._waiting = module
            if self._reducer is None:
                self._step_waiting()
        self._unfinished = True

    def _tell_idle(self, module: LocalModule) -> None:
        """Say, once for a module, that nothing of what its local loss reaches is trained."""
        if module.index not in self._idle:
            self._idle.add(module.index)
            print_log(
                f'{module} trains nothing: none of its parameters and of its auxiliary requires a gradient. A hook '
                'that freezes model.backbone.parameters() freezes the auxiliaries below it, too.',
                logger='current',
                level=logging.WARNING,
            )

    def _amplify(self, loss: Tensor) -> Tensor:
        return loss

    def _step_waiting(self) -> None:
        if self._waiting is None:
            return
        module, self._waiting = self._waiting, None
        self._check_finite()
        if self._reducer is not None:
            self._reducer.wait_for_modules()
        self._step_module(module)

    def _step_module(self, module: LocalModule) -> None:
        """Step the parameters of one module and its auxiliary; what it shares with others keeps its gradient."""
        assert self._backbone is not None
        own = set(module.parameters(self._backbone.backbone))
        everything = [p for group in self.optimizer.param_groups for p in group['params']]
        others = {p: p.grad for p in everything if p.grad is not None and p not in own}
        for p in others:
            p.grad = None
        with phase('step', module, HELP['step']):
            super().step()
        self.zero_grad()
        for p, grad in others.items():
            p.grad = grad

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As upstream's, for the main loss.

        Raises:
            FloatingPointError: If a local loss of this iteration is not finite; no parameter has been stepped by it.
        """
        self._step_waiting()
        self._unfinished = False
        self._check_finite()
        with phase('main loss', 'the last module, neck and head (backward)', HELP['main loss']):
            super().update_params(loss, *args, **kwargs)
        self._log_norms()

    def step(self, **kwargs: Any) -> None:
        """As upstream's, when the gradients of all modules have been averaged over the processes.

        Followers move then, once: with eager steps too, and, as by upstream's `EMAHook`, after a step that is skipped.
        """
        if self._reducer is not None:
            self._reducer.wait_for_modules()
        with phase('step', 'the optimizer', HELP['step']):
            super().step(**kwargs)
        if self._backbone is not None:
            self._backbone.move_followers()

    def _check_finite(self) -> None:
        if not self._unchecked:
            return
        finite = torch.stack([value.isfinite() for value in self._unchecked.values()]).tolist()
        bad = [key for key, is_finite in zip(self._unchecked, finite, strict=True) if not is_finite]
        self._unchecked.clear()
        if bad:
            assert self._backbone is not None
            where = '; '.join(f'{name} of {self._backbone.local_modules[module]}' for module, name in bad)
            self._on_nonfinite(f'local loss is infinite or NaN: {where}.')

    def _on_nonfinite(self, message: str) -> None:
        raise FloatingPointError(message)

    def _clip_grad(self) -> None:
        if not self.clip_per_module:
            super()._clip_grad()
            return
        assert self._backbone is not None
        rest = {p: None for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None}
        for module in self._backbone.local_modules:
            own = [p for p in module.parameters(self._backbone.backbone) if p in rest]
            for p in own:
                del rest[p]
            self._clip(own, f'local_{module.index:02d}/grad_norm')
        self._measure_parts(rest)
        self._clip(list(rest), 'grad_norm')

    def _log_norms(self) -> None:
        if self._norms:
            values = torch.stack([norm.float() for norm in self._norms.values()]).tolist()  # one question for all
            for name, value in zip(self._norms, values, strict=True):
                self.message_hub.update_scalar(f'train/{name}', value)
            self._norms.clear()

    def _measure_parts(self, parameters: Collection[nn.Parameter]) -> None:
        """Take the norms of the neck's and of each head's gradients, which are clipped by the one of all."""
        if not parameters or 'max_norm' not in self.clip_grad_kwargs:
            return
        parts: dict[str, list[Tensor]] = {}
        for name, p in self._host.named_parameters():
            if p in parameters and p.grad is not None:
                part = name.split('.')[0]
                is_tail = getattr(self._host, part) is self._backbone
                parts.setdefault(f'{part}_tail' if is_tail else part, []).append(p.grad)
        for name, grads in parts.items() if len(parts) > 1 else ():
            order = self.clip_grad_kwargs.get('norm_type', 2.0)
            norms = torch.stack([torch.linalg.vector_norm(grad, order) for grad in grads])
            self._norms[f'grad_norm/{name}'] = torch.linalg.vector_norm(norms, order)

    def _clip(self, parameters: list[nn.Parameter], name: str) -> None:
        if not parameters:
            return
        norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        if norm is not None:  # clipping by value returns none
            self._norms[name] = norm


@OPTIM_WRAPPERS.register_module()
@strict_keys
class LocalAmpOptimWrapper(LocalOptimWrapper, AmpOptimWrapper):
    """`AmpOptimWrapper` for models with a `LocalBackbone`: one loss scale for local and main losses.

    A step in which any of them overflows is skipped as a whole, and the log names the module. With
    `loss_scale=dict(enabled=False)`, for bfloat16, nothing is scaled and nothing skipped: then `eager_step` is legal,
    and a local loss that is not finite is an error, as in full precision.
    """

    def _amplify(self, loss: Tensor) -> Tensor:
        return self.loss_scaler.scale(loss)

    def _on_nonfinite(self, message: str) -> None:
        """An overflow is what dynamic scaling is for: the scaler skips the step."""
        if not self.loss_scaler.is_enabled():
            super()._on_nonfinite(message)
        print_log(f'{message} The loss scaler skips this step.', logger='current', level=logging.WARNING)


def _local_name(name: str) -> str:
    """`loss_cls` -> `cls`, `loss` -> `total`: MMEngine sums whatever is named a loss."""
    return name.replace('loss_', '').replace('loss', 'total')
