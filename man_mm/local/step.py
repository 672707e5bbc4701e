"""The loop: modules run one after the other, and each is trained before the next one runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.profiler import record_function

from ..versions import add_note
from .auxiliary import Auxiliary, Task
from .bank import FeatureBank
from .module import LocalModule
from .units import Activation, detached

__all__ = ['LocalBackward', 'LocalStep', 'TaskMaker', 'listen_to_phases', 'phase', 'train_modules']


class LocalBackward(Protocol):
    """Back-propagates the local losses of one module at once, and frees its graph."""

    def __call__(self, losses: Mapping[str, Any], module: LocalModule) -> None: ...


class TaskMaker(Protocol):
    """The model around the backbone, as a step knows it; `man_mm.readout.Readout` is one."""

    def task(self, auxiliary: Auxiliary, inputs: Any, targets: Any) -> AbstractContextManager[Task]:
        """The model's task on a batch, for one auxiliary; open until the backward of its local losses has ended."""


@dataclass
class LocalStep:
    """One training step of a `LocalBackbone`: made before the model's forward, dropped after it.

    Args:
        inputs: The batch as the model gets it, preprocessed.
        targets: Its data samples.
        backward: What a module's local losses go to.
        readout: What turns features into losses.
        bank: An empty one.
    """

    inputs: Any
    targets: Any
    backward: LocalBackward
    readout: TaskMaker
    bank: FeatureBank
    is_running: bool = False
    num_runs: int = 0
    """How often the model has run its backbone in this step."""

    def task(self, module: LocalModule) -> AbstractContextManager[Task]:
        """The task that trains a module, which is not the last one."""
        assert module.auxiliary is not None
        return self.readout.task(module.auxiliary, self.inputs, self.targets)


def train_modules(modules: Sequence[LocalModule], net: nn.Module, x: Activation, step: LocalStep) -> Activation:
    """Run `modules` of the backbone `net` on `x`, train each by its local loss, bank its taps.

    Returns:
        The input of the module after them, detached. No graph is left.
    """
    step.num_runs += 1
    for module in modules:
        x = _train(module, net, x, step)  # in a scope of its own: no name holds a graph while the next one runs
    return x


def _train(module: LocalModule, net: nn.Module, x: Activation, step: LocalStep) -> Activation:
    assert module.auxiliary is not None
    with phase('forward', module):
        x, taps = module.run(net, x)
    with phase('local loss', module), step.task(module) as task:
        step.backward(module.auxiliary.local_losses(x, step.bank.seen_with(taps), task), module)
    step.bank.put(taps)
    return detached(x)


HELP = {
    'forward': "more modules or partition='memory' (smaller modules), man_mm.ActivationCheckpointHook or the "
    "backbone's with_cp (recompute)",
    'local loss': "auxiliary.type='man_mm.SlimSLM', a neck and a head of fewer channels and anchors for auxiliaries, "
    'man_mm.ActivationCheckpointHook on the head, tail_chunks for super-resolution',
}
"""Levers against running out of memory, by phase."""

_listeners: list[Callable[[str, LocalModule | str], None]] = []


@contextmanager
def phase(name: str, where: LocalModule | str, help: str | None = None) -> Iterator[None]:
    """A part of a training step: a range for `torch.profiler`, a mark for the meter, a note on an out-of-memory error.

    Args:
        name: E.g. `forward`.
        where: The module, or what else the step is at.
        help: Which levers help if memory runs out here; of nested phases, the innermost speaks.
    """
    for listener in _listeners:
        listener(name, where)
    # only where somebody looks: dispatch modes (fake tensors) do not take the operator that opens a range
    profiled = torch._C._autograd._profiler_enabled()
    try:
        with record_function(f'{where}: {name}') if profiled else nullcontext():
            yield
    except torch.cuda.OutOfMemoryError as error:  # torch >= 2.5 calls it torch.OutOfMemoryError
        if not hasattr(error, '__notes__'):
            add_note(
                error,
                f'man_mm: out of memory in the {name} of {where}. What helps here: {help or HELP.get(name, "-")}. '
                'What helps everywhere: a smaller batch, or plan=dict(memory=...), with which tools/train.py looks for '
                'what fits (tools/analysis_tools/plan.py). See docs/memory.md.',
            )
        raise


@contextmanager
def listen_to_phases(listener: Callable[[str, LocalModule | str], None]) -> Iterator[None]:
    """Inside, `listener` is told every phase that begins, by its name and where it is."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
