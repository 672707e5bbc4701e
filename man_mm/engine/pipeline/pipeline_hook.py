"""PipelineHook: one data loader, one log and one checkpoint for the processes of a pipeline."""

import time
from functools import partial
from typing import Any

import torch.distributed as dist
from mmengine.hooks import EMAHook, Hook, LoggerHook
from mmengine.runner import Runner

from ...keys import strict_keys
from ...registry import HOOKS
from .checks import refuse_split_data
from .data import read_in_first_process
from .wrapper import LocalPipeline

__all__ = ['PipelineHook']

OWN = ('train/local_', 'train/grad_norm', 'train/idle_')
"""Scalars of which each process has its own, beside the terms of the main loss."""


@HOOKS.register_module()
@strict_keys
class PipelineHook(Hook):
    """What a `LocalPipeline` needs of the runner; in a run of one process it does nothing.

    Only the first process reads data. Weights, buffers and optimizer state of all modules come together before
    validation, before a checkpoint is saved and after training: a checkpoint is that of a run in one process, and each
    can resume the other's. Moving averages of `EMAHook` come together too.

    Where MMEngine writes a log line, the losses of all processes since the last one come to the first process: there,
    and where weights come together, the first process waits for the last one. `idle_N` is the share of the time since
    the last line in which process N waited for its neighbours.
    """

    priority = 55  # after what writes scalars (NORMAL), before what reads them (BELOW_NORMAL)

    def __init__(self) -> None:
        self._pipeline: LocalPipeline | None = None
        self._seen: dict[str, int] = {}
        """Values of each scalar that the first process has, or that are of before this run."""
        self._main: set[str] = set()
        self._clock = (0.0, 0.0)

    def before_train(self, runner: Runner) -> None:
        """Check, and begin with the same weights in all processes.

        Raises:
            ValueError: If data, optim wrapper or model would make processes depend on each other, or if there are
                several processes and no `LocalPipeline`.
        """
        if not isinstance(runner.model, LocalPipeline):
            _refuse_other_wrappers(runner)
            return
        refuse_split_data(runner)
        self._pipeline = runner.model
        self._pipeline.start(runner.optim_wrapper)
        read_in_first_process(runner)
        self._seen = {key: len(buffer.data[0]) for key, buffer in runner.message_hub.log_scalars.items()}
        self._clock = (time.perf_counter(), self._pipeline.seconds_waited)
        # every process calls it, but only the first one gets to the hooks in it
        vars(runner)['save_checkpoint'] = partial(self._save, runner)

    def _save(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        assert self._pipeline is not None
        self._gather(runner)
        with self._pipeline.whole_state(runner.optim_wrapper):
            type(runner).save_checkpoint(runner, *args, **kwargs)

    def _gather(self, runner: Runner) -> None:
        assert self._pipeline is not None
        averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        self._pipeline.gather(*averages)
        self._collect_scalars(runner)

    def before_val(self, runner: Runner) -> None:
        """Bring weights and running statistics together."""
        if self._pipeline is not None:
            self._gather(runner)

    def after_train(self, runner: Runner) -> None:
        """The same, for who goes on with the model."""
        if self._pipeline is not None:
            self._gather(runner)
            del vars(runner)['save_checkpoint']
            self._pipeline = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Bring losses to the first process if a log line comes now."""
        if self._pipeline is None:
            return
        self._main |= {f'train/{name}' for name in outputs or ()}
        loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        is_line = any(self.every_n_inner_iters(batch_idx, hook.interval) for hook in loggers)
        if is_line or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._note_idle(runner)
            self._collect_scalars(runner)

    def _note_idle(self, runner: Runner) -> None:
        assert self._pipeline is not None
        now = (time.perf_counter(), self._pipeline.seconds_waited)
        idle = (now[1] - self._clock[1]) / (now[0] - self._clock[0])
        runner.message_hub.update_scalar(f'train/idle_{self._pipeline.process}', idle)

    def _collect_scalars(self, runner: Runner) -> None:
        """Give the first process what the others have logged of their own since the last time."""
        assert self._pipeline is not None
        own = {}
        for key, buffer in runner.message_hub.log_scalars.items():
            history = buffer.data[0]
            if key in self._main or key.startswith(OWN):
                own[key] = history[self._seen.get(key, 0) :].tolist()
            self._seen[key] = len(history)
        is_first = dist.get_rank() == 0
        scalars: list[Any] | None = [None] * dist.get_world_size() if is_first else None
        dist.gather_object(own, scalars)
        for theirs in (scalars or [])[1:]:
            for key, values in theirs.items():
                for value in values:
                    runner.message_hub.update_scalar(key, value)
        self._clock = (time.perf_counter(), self._pipeline.seconds_waited)  # this wait is none of the pipeline


def _refuse_other_wrappers(runner: Runner) -> None:
    """With `man_mm.WholeSampler`, which goes with this hook, all processes would train on the same data."""
    if runner.world_size > 1:
        raise ValueError(
            f'custom_hooks has man_mm.PipelineHook, but {runner.world_size} processes train by '
            f"{type(runner.model).__name__}: set model_wrapper_cfg=dict(type='man_mm.LocalPipeline'), or take the hook "
            'and man_mm.WholeSampler out.'
        )
