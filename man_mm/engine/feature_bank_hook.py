"""FeatureBankHook: brings inputs, targets and losses to the modules."""

import inspect
from typing import Any, cast
from weakref import WeakKeyDictionary, ref

import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..keys import strict_keys
from ..local import LocalBackbone, LocalStep, find_local_backbone
from ..local.names import BACKBONES
from ..readout import FollowedHeads, Readout, build_readout, holder_of, refuse_unserved
from ..registry import HOOKS
from .last_batch import check_last_batch
from .log_processor import LocalLogProcessor
from .optim_wrapper import LocalOptimWrapper
from .setup_record import check_fit, check_resume, describe, refuse_different_ranks, structure
from .upstream_keys import refuse_upstream_keys

__all__ = ['FeatureBankHook']

LOGS = ('terms', 'total')

_LISTENING: 'WeakKeyDictionary[LocalBackbone, ref[Readout]]' = WeakKeyDictionary()
"""Readouts that listen to a model's forward; the model holds them."""


@HOOKS.register_module()
@strict_keys
class FeatureBankHook(Hook):
    """Opens a step of the `LocalBackbone` with every training batch, drops it after the forward, also when it raises.

    Checks the whole set-up before training, binds the readout that fits the model, and logs under `local_MM/*` what the
    local losses were, and under `bank_mib` what the bank held at most; a `LocalLogProcessor` in place of MMEngine's
    makes a line of that. Of several in a config, the last one acts.

    Args:
        log: `terms` logs every local loss term, `total` one number a module.
    """

    def __init__(self, log: str = 'terms') -> None:
        if log not in LOGS:
            raise ValueError(f'FeatureBankHook.log={log!r} must be one of {LOGS}.')
        self.log = log
        self._backbone: LocalBackbone | None = None
        self._optim_wrapper: LocalOptimWrapper | None = None
        self._readout: Readout | None = None
        self._heads: FollowedHeads | None = None
        self.bank_bytes = 0
        """The most that the bank of the last step held."""

    def before_train(self, runner: Runner) -> None:
        """Check, and start to listen to the model's forward.

        Raises:
            ValueError: If optim wrapper, distributed wrapper, model or auxiliary do not fit together, or the config
                asks for a plan that nobody has made.
        """
        if runner.cfg.get('plan') is not None:
            raise ValueError(
                f'plan={runner.cfg.plan!r} is read by the tools/train.py of man_mm alone; for other programs, '
                'tools/analysis_tools/plan.py CONFIG --out PLAIN_CONFIG.py writes a config with the plan in it.'
            )
        self.bind(runner.model, runner.optim_wrapper)
        if self._backbone is not None and self._readout is not None:
            refuse_upstream_keys(runner.cfg, self._readout.host, self._backbone)
            runner.log_processor = LocalLogProcessor.of(runner.log_processor)
        if self._backbone is not None and runner.train_dataloader is not None:
            batches = (runner.cfg.get('train_dataloader') or {}).get('num_batch_per_epoch')
            check_last_batch(runner.train_dataloader, self._backbone, runner.max_iters, batches)

    def bind(self, model: nn.Module, optim_wrapper: OptimWrapper) -> None:
        """What `before_train` does, for a training loop of one's own."""
        host = cast(nn.Module, model.module) if is_model_wrapper(model) else model
        if any(isinstance(module, LocalBackbone) and module.num_modules > 1 for module in host.modules()):
            refuse_unserved(host)
        backbone = find_local_backbone(host)
        if backbone.num_modules == 1:
            return
        if not any(p.requires_grad for p in backbone.parameters()):
            raise ValueError(
                f'{type(host).__name__} has frozen all of its LocalBackbone (freeze_detector=True?), so there is '
                'nothing for local learning to train: num_modules=1 trains the rest by back-propagation.'
            )
        if not isinstance(optim_wrapper, LocalOptimWrapper):
            raise ValueError(
                f"optim_wrapper.type is {type(optim_wrapper).__name__}, but must be 'man_mm.LocalOptimWrapper' "
                "(with --amp 'man_mm.LocalAmpOptimWrapper'; upstream's own tools/train.py --amp replaces it)."
            )
        _check_wrapper(model)
        refuse_different_ranks(describe(host, backbone, optim_wrapper))
        holder = holder_of(host)
        if all(getattr(holder, name, None) is not backbone for name in BACKBONES):
            names = ' or '.join(f'model.{name}' for name in BACKBONES)
            raise ValueError(f'{type(host).__name__} must hold the LocalBackbone itself, as {names}.')
        readout = build_readout(host, backbone.num_modules)
        readout.check(backbone.auxiliaries[0])
        before = _LISTENING.pop(backbone, lambda: None)()
        if before is not None:  # left by a run that did not end, or by a second hook of this kind
            before.detach()
        readout.attach(backbone.auxiliaries[0], self._open, self._close)
        self._heads = FollowedHeads(holder, backbone.auxiliaries)
        backbone.unread = readout.unread_taps(backbone)
        optim_wrapper.bind(host)
        _LISTENING[backbone], self._readout = ref(readout), readout
        self._backbone, self._optim_wrapper = backbone, optim_wrapper

    def _listens(self) -> bool:
        """Whether no other hook of this kind has been bound to the model since."""
        return self._backbone is not None and _LISTENING.get(self._backbone, lambda: None)() is self._readout

    def _open(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._drop()  # what a step has left that was interrupted from the keyboard, of which torch tells no hook
        call = inspect.signature(host.forward).bind(*args, **kwargs).arguments
        if call.get('mode') == 'loss':
            assert self._backbone is not None and self._readout is not None and self._optim_wrapper is not None
            inputs, targets = call['inputs'], call.get('data_samples')
            if host.training and torch.is_grad_enabled():
                self._optim_wrapper.refuse_unfinished()
            self._readout.check_batch(inputs, targets)
            backward, bank = self._optim_wrapper.local_backward, self._backbone.new_bank()
            assert self._heads is not None
            self._heads.follow()
            self._readout.open_batch(inputs, targets)
            targets = self._readout.task_type.own_targets(targets)  # the main loss may change them before it extracts
            self._backbone.step = LocalStep(inputs, targets, backward, self._readout, bank)

    def _drop(self) -> LocalStep | None:
        """End the step under way, if there is one, and return it."""
        assert self._backbone is not None and self._readout is not None
        self._readout.close_batch()
        step, self._backbone.step = self._backbone.step, None
        if step is not None and self._heads is not None:
            self._heads.note()
        return step

    def _close(self, host: nn.Module, *_: Any) -> None:
        step = self._drop()
        if step is None:
            return
        assert self._backbone is not None
        self.bank_bytes = step.bank.peak_bytes
        if step.num_runs == 0 and host.training and torch.is_grad_enabled():
            raise ValueError(
                f'model.type={type(host).__name__} makes its loss without a run of its backbone in training mode with '
                f'gradients, so none of the {len(self._backbone.local_modules) - 1} local losses was made and nothing '
                "trains the modules. Something has replaced, traced or cached the backbone's forward, or the model "
                'does not call it.'
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Log this iteration's local losses."""
        if self._backbone is None or self._optim_wrapper is None or not self._listens():
            return
        losses = self._optim_wrapper.local_losses
        if losses:
            values = torch.stack([value.float() for value in losses.values()]).tolist()  # one synchronisation for all
            for (module, name), value in zip(losses, values, strict=True):
                if self.log == 'terms' or name == 'total':
                    runner.message_hub.update_scalar(f'train/local_{module:02d}/{name}', value)
        runner.message_hub.update_scalar('train/bank_mib', self.bank_bytes / 2**20)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Tell whose optimizer state this is."""
        if self._backbone is not None:
            checkpoint['meta']['local_learning'] = structure(self._backbone, runner.optim_wrapper)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check, before weights are loaded, that they are those of such a model; for resuming, of just this one.

        Raises:
            ValueError: If they are not.
        """
        host = cast(nn.Module, runner.model.module) if is_model_wrapper(runner.model) else runner.model
        if not any(isinstance(module, LocalBackbone) for module in host.modules()):
            return  # refused where training starts; a test needs none
        backbone = find_local_backbone(host)
        check_fit(checkpoint, host, backbone)
        if runner._resume and isinstance(runner.optim_wrapper, OptimWrapper):  # a test has none
            check_resume(checkpoint, structure(backbone, runner.optim_wrapper), host)

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        if self._backbone is not None and self._readout is not None and self._listens():
            self._readout.detach()
            _LISTENING.pop(self._backbone, None)
        self._backbone = self._optim_wrapper = self._readout = self._heads = None


def _check_wrapper(model: nn.Module) -> None:
    """Refuse the ways of distributing in which gradients made inside the forward would not be reduced."""
    if not is_model_wrapper(model) or getattr(model, 'knows_modules', False):
        return
    if not isinstance(model, MMDistributedDataParallel):
        raise ValueError(
            f'model_wrapper_cfg.type={type(model).__name__} is not supported: local losses are reduced by '
            'MMDistributedDataParallel with find_unused_parameters=True, or by man_mm.LocalDistributedDataParallel; '
            'man_mm.LocalPipeline needs no reduction.'
        )
    if not model.find_unused_parameters or model.static_graph:
        raise ValueError(
            'find_unused_parameters must be True, and static_graph must be off: otherwise DDP leaves the gradients of '
            'local losses unsynchronised, without an error. Set find_unused_parameters=True at the top of the config, '
            'and in model_wrapper_cfg if it has one.'
        )
