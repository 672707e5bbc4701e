"""Cost of training steps: bytes by kind and module, seconds, floating-point operations."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..local import LocalBackbone, LocalModule, listen_to_phases
from ..versions import flops_of
from .memory import KINDS, PeakMemory, Phase, training_tensors
from .step import TrainStep

__all__ = ['StepCost', 'predict_seconds', 'step_cost', 'step_seconds']

MAIN = 'main'
"""Phase of the last module, the main loss and what follows it; all of a step by back-propagation."""


@dataclass(frozen=True)
class StepCost:
    """One training step: weights, buffers, optimizer state, activations, gradients; see `PeakMemory`.

    Args:
        peak_bytes: The most that was live at once.
        reserved_bytes: What CUDA's allocator took from the device, at most; 0 on the CPU.
        split: The bytes at the peak by kind, see `man_mm.analysis.memory.KINDS`.
        phases: One a module, from where it begins to run to where the next one does; the last one is the rest of the
            step.
        timeline: Live bytes after every change.
        progress: Operations that were done by then.
        flops: Floating-point operations, forward and backward, of convolutions, matrix products and attention.
    """

    peak_bytes: int
    reserved_bytes: int
    split: dict[str, int]
    phases: tuple[Phase, ...]
    timeline: tuple[int, ...]
    progress: tuple[int, ...]
    flops: int


def step_cost(step: TrainStep, batch: Any) -> StepCost:
    """Measure after the optimizer has made its state.

    Of steps that differ, because gradients accumulate, the one with the highest peak counts, with the mean of their
    operations.
    """
    step.warm_up(batch)
    costs = [_one_cost(step, batch) for _ in range(step.period)]
    return replace(max(costs, key=lambda cost: cost.peak_bytes), flops=sum(cost.flops for cost in costs) // len(costs))


def _one_cost(step: TrainStep, batch: Any) -> StepCost:
    if step.device != 'cpu':  # what was measured before must not count
        gc.collect()
        torch.cuda.empty_cache()
    meter = PeakMemory(training_tensors(step.model, step.optimizer), step.device)
    with _FlopCounter(meter) as counter, meter, _watching(step, meter):
        step(batch)
    counter.catch_up()
    return StepCost(
        peak_bytes=meter.peak_bytes,
        reserved_bytes=meter.reserved_bytes,
        split={kind: meter.split.get(kind, 0) for kind in KINDS},
        phases=tuple(meter.phases),
        timeline=tuple(meter.timeline),
        progress=tuple(counter.progress),
        flops=counter.flops,
    )


@contextmanager
def _watching(step: TrainStep, meter: PeakMemory) -> Iterator[None]:
    """Tell the meter of gradients, of the bank, and where a module begins."""
    with ExitStack() as stack:
        for parameter in step.model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(lambda p: meter.assign(p.grad, 'gradients'))
                stack.callback(handle.remove)
        backbone = step.local_backbone
        if backbone is not None:
            stack.enter_context(listen_to_phases(partial(_mark, meter, backbone)))
        meter.mark(MAIN if backbone is None else '0')
        yield


def _mark(meter: PeakMemory, backbone: LocalBackbone, name: str, where: LocalModule | str) -> None:
    """Tell the meter what the bank holds, and of a module that begins."""
    if backbone.step is not None:
        for tensor in backbone.step.bank.stored():
            meter.assign(tensor, 'bank')
    if isinstance(where, LocalModule) and name == 'forward':
        meter.mark(MAIN if where.auxiliary is None else str(where.index))


class _FlopCounter(TorchDispatchMode):
    """Counts by torch's own formulas. `progress` says how many there were at every change of what `meter` counts."""

    def __init__(self, meter: PeakMemory) -> None:
        super().__init__()
        self.meter = meter
        self.flops = 0
        self.progress: list[int] = []

    def catch_up(self) -> None:
        """All changes since the last operations came after these."""
        self.progress += [self.flops] * (len(self.meter.timeline) - len(self.progress))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        flops = flops_of(func, args, kwargs or {}, result)
        if flops:
            self.catch_up()
            self.flops += flops
        return result


def step_seconds(steps: Sequence[TrainStep], batch: Any, rounds: int) -> list[list[float]]:
    """Seconds of `rounds` training steps of each of `steps`; see `_interleaved`."""
    return _interleaved([(lambda step=step: step(batch)) for step in steps], steps[0].device, rounds)


def predict_seconds(steps: Sequence[TrainStep], batch: Any, rounds: int) -> list[list[float]]:
    """Seconds that each model takes to predict on `batch`, as a test does, `rounds` times; see `_interleaved`.

    It leaves the models in evaluation mode. Images of a training pipeline that resizes none bring no `scale_factor`,
    which detectors divide their boxes by: they get (1, 1).
    """
    for step in steps:
        step.model.eval()
    for sample in batch.get('data_samples') or ():
        if 'scale_factor' not in sample:
            sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return _interleaved([(lambda step=step: step.model.test_step(batch)) for step in steps], steps[0].device, rounds)


def _interleaved(calls: Sequence[Callable[[], Any]], device: str, rounds: int) -> list[list[float]]:
    """Seconds of each call, taken in turns so that a slow moment of the machine hits all.

    One more round goes first, to warm up.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device != 'cpu':
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
    return [taken[1:] for taken in times]
