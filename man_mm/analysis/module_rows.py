"""A partition as plain data: a row per module."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..local import LocalBackbone, LocalModule, Unit

__all__ = ['ModuleRow', 'module_rows']


@dataclass(frozen=True)
class ModuleRow:
    """One module of a `LocalBackbone`.

    Args:
        module: Index from 0.
        units: Names of its units.
        stages: The stages they belong to.
        parameters: Trainable parameters of the units.
        auxiliary_parameters: Trainable parameters of the auxiliary that trains it: units, neck, private heads. Of one
            that modules share, they count in the first of these modules; 0 in the others.
        fixed_parameters: The other parameters of that auxiliary, which have neither gradient nor optimizer state: units
            that follow or stay as they are, norms as frozen as the mirrored ones.
        reads: Taps that the auxiliary, or for the last module the model, takes from the feature bank.
        writes: Taps that the module makes and banks, without those that are known to be `unread`; the last module's go
            to the model directly.
    """

    module: int
    units: tuple[str, ...]
    stages: tuple[str, ...]
    parameters: int
    auxiliary_parameters: int
    fixed_parameters: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def module_rows(backbone: LocalBackbone) -> list[ModuleRow]:
    """Describe every module of `backbone`, in order."""
    rows: list[ModuleRow] = []
    earlier: list[Unit] = []
    counted: set[nn.Module] = set()
    for module in backbone.local_modules:
        units, auxiliary = module.units, module.auxiliary
        writes = [unit for unit in units if unit.tap in backbone.banked and unit.tap not in backbone.unread]
        own = [] if auxiliary is None or auxiliary in counted else list(auxiliary.parameters())
        rows.append(
            ModuleRow(
                module=module.index,
                units=tuple(unit.name for unit in units),
                stages=tuple(dict.fromkeys(unit.stage for unit in units)),
                parameters=sum(_trainable(unit.parameters(backbone.backbone)) for unit in units),
                auxiliary_parameters=_trainable(own),
                fixed_parameters=sum(p.numel() for p in own) - _trainable(own),
                reads=tuple(unit.tap for unit in earlier if _reads(backbone, module, unit)),
                writes=tuple(unit.tap for unit in writes),
            )
        )
        earlier += writes
        if auxiliary is not None:
            counted.add(auxiliary)
    return rows


def _reads(backbone: LocalBackbone, module: LocalModule, unit: Unit) -> bool:
    """Whether the auxiliary of `module`, or for the last module the model, reads the tap of an earlier `unit`."""
    if module.auxiliary is None:
        return not unit.pooled
    return backbone.lends_bank and (module.auxiliary.reads_pooled if unit.pooled else module.auxiliary.reads_taps)


def _trainable(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters if p.requires_grad)
