"""Which loss trains which parameter: every gradient of a training step, noted with the loss that it came from."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..local import LocalBackbone, LocalModule, find_local_backbone, listen_to_phases
from .step import TrainStep

__all__ = ['MAIN', 'AuditRow', 'audit_step', 'gradients_by_loss']

MAIN = 'main'
"""The model's own loss; a local loss is named by the index of its module."""

Losses = dict[nn.Parameter, list[int | str]]


@dataclass(frozen=True)
class AuditRow:
    """One part of a model: a module's units, an auxiliary, or what else the model has.

    Args:
        part: E.g. `module 3 (layer1.2 .. layer2.1)`.
        parameters: How many parameter tensors it has.
        fixed: How many of them require no gradient.
        trained_by: How many of them each loss reached, in the order of the backwards.
        untrained: Names of those that require a gradient and got none.
        foreign: Names of those that a loss reached from which they ought to be isolated.
    """

    part: str
    parameters: int
    fixed: int
    trained_by: dict[int | str, int]
    untrained: tuple[str, ...]
    foreign: tuple[str, ...]


@contextmanager
def gradients_by_loss(model: nn.Module) -> Iterator[Losses]:
    """Inside, note for every parameter of `model` each loss that gives it a gradient.

    What is noted is autograd's own accumulation, not what the partition says: a loss that leaks is seen.
    """
    reached: Losses = {}
    current: int | str = MAIN

    def enter(phase: str, where: LocalModule | str) -> None:
        nonlocal current
        current = where.index if phase == 'backward' and isinstance(where, LocalModule) else MAIN

    def note(parameter: nn.Parameter) -> None:
        losses = reached.setdefault(parameter, [])
        if current not in losses:
            losses.append(current)

    with ExitStack() as stack:
        stack.enter_context(listen_to_phases(enter))
        for parameter in model.parameters():
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(note).remove)
        yield reached


def audit_step(step: TrainStep, batch: Any) -> list[AuditRow]:
    """Train `step` once on `batch` and tell which loss reached which part.

    Units may be reached by the loss of their own module alone, which for the last one is the main loss; an auxiliary by
    those of the modules that it trains; what follows the last unit by the main loss, and by those of modules whose
    auxiliary uses it as it is. What the model has besides is shared: any loss may reach it.

    Raises:
        ValueError: If the model has no `LocalBackbone`.
    """
    model = step.model
    backbone = find_local_backbone(model)
    with gradients_by_loss(model) as reached:
        step(batch)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        _row(part, [p for p in parameters if p in names], reached, allowed, names)
        for part, parameters, allowed in _parts(model, backbone, names)
    ]


def _parts(
    model: nn.Module, backbone: LocalBackbone, names: dict[nn.Parameter, str]
) -> Iterator[tuple[str, list[nn.Parameter], set[int | str] | None]]:
    """Name, parameters, and the losses that may reach it (None: any) of every part; together they are the model."""
    left = dict.fromkeys(names)

    def take(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        taken = [p for p in dict.fromkeys(parameters) if p in left]
        for p in taken:
            del left[p]
        return taken

    net = backbone.backbone
    modules = backbone.local_modules
    for module in modules:
        own = MAIN if module.auxiliary is None else module.index
        yield str(module), take(p for unit in module.units for p in unit.parameters(net)), {own}
    for auxiliary in backbone.auxiliaries:
        users = [module.index for module in modules if module.auxiliary is auxiliary]
        of = f'module {users[0]}' if len(users) == 1 else f'modules {users[0]} to {users[-1]}'
        yield f'auxiliary of {of}', take(auxiliary.parameters()), set(users)
    rest = take(net.parameters())
    if rest:
        sharing = (module.index for module in modules if module.auxiliary and module.auxiliary.shared_parameters())
        yield 'backbone, outside of its units', rest, {MAIN, *sharing}
    by_child: dict[str, list[nn.Parameter]] = {}
    for parameter in left:
        by_child.setdefault(names[parameter].split('.')[0], []).append(parameter)
    for child, parameters in by_child.items():
        yield child, parameters, None


def _row(
    part: str,
    parameters: list[nn.Parameter],
    reached: Losses,
    allowed: set[int | str] | None,
    names: dict[nn.Parameter, str],
) -> AuditRow:
    counts = Counter(loss for p in parameters for loss in reached.get(p, ()))
    order = sorted(counts, key=lambda loss: (loss == MAIN, loss))  # the main loss comes last
    return AuditRow(
        part=part,
        parameters=len(parameters),
        fixed=sum(not p.requires_grad for p in parameters),
        trained_by={loss: counts[loss] for loss in order},
        untrained=tuple(names[p] for p in parameters if p.requires_grad and p not in reached),
        foreign=tuple(names[p] for p in parameters if allowed is not None and set(reached.get(p, ())) - allowed),
    )
