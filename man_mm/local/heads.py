"""Heads of auxiliaries that are copies of the model's own, and how a backbone gets to know the model's heads.

A model builds its backbone before its heads, and knows nothing of auxiliaries. Private heads copy the model's own, and
must exist before DDP and the optimizer look at the parameters, so they are made when the model registers a head.
Configs cannot give them earlier: a two-stage model merges its `train_cfg` into its heads in its own constructor.
"""

import copy
from collections.abc import Callable
from functools import cache
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ['copied_head', 'draw_afresh', 'on_host', 'on_sibling', 'read_width', 'readers', 'widen_head']

OnSibling = Callable[[Any, str, nn.Module], None]

_callbacks: 'WeakKeyDictionary[nn.Module, OnSibling]' = WeakKeyDictionary()
_checks: list[Callable[[nn.Module], None]] = []
_hosts: 'WeakKeyDictionary[nn.Module, ref[nn.Module]]' = WeakKeyDictionary()


def on_sibling(backbone: nn.Module, callback: OnSibling) -> None:
    """Call `callback(backbone, name, module)` for every module that the model of `backbone` registers beside it."""
    _install()
    _callbacks[backbone] = callback


def on_host(check: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    """From now on, call `check(model)` when a model registers a backbone that wants to hear of siblings."""
    _checks.append(check)
    return check


@cache
def _install() -> None:
    """Register one hook for good: torch walks its registration hooks while modules are made, so none may vanish."""
    register_module_module_registration_hook(_on_registration)


def _on_registration(host: nn.Module, name: str, child: nn.Module | None) -> None:
    if child is None:
        return
    if child in _callbacks:
        if isinstance(host, nn.Sequential):  # MMPretrain hands one to what averages weights; it is no model
            return
        for check in _checks:
            check(host)
        _hosts[child] = ref(host)
        for sibling, module in host.named_children():  # built before the backbone
            _callbacks[child](child, sibling, module)
        return
    for backbone, callback in list(_callbacks.items()):
        known = _hosts.get(backbone)
        if known is not None and known() is host:
            callback(backbone, name, child)


def copied_head(head: nn.Module) -> nn.Module:
    """A deep copy that calls nothing of the original.

    `copy.deepcopy` keeps functions as they are: a head that keeps a wrapped method of a part of it (MMPretrain's
    `MultiTaskHead`) would, copied, still make its losses by the original.
    """
    memo: dict[int, Any] = {}
    own = copy.deepcopy(head, memo)
    for layer in own.modules():
        for name, value in list(vars(layer).items()):
            if isinstance(value, FunctionType):
                vars(layer)[name] = _of_copy(value, memo)
    return own


def _of_copy(value: Any, memo: dict[int, Any]) -> Any:
    """`value` with the copies that `memo` has in place of the modules that it is bound to or encloses."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _of_copy(value.__self__, memo))
    if isinstance(value, FunctionType) and value.__closure__:
        cells = tuple(CellType(_of_copy(cell.cell_contents, memo)) for cell in value.__closure__)
        return FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
    return memo.get(id(value), value) if isinstance(value, nn.Module) else value


def readers(head: nn.Module) -> list[tuple[nn.Module, int]]:
    """The parts of a head that read the features, and how many: itself, or the heads by name that it is made of.

    0 is unknown: such a head can read only what the model's reads.
    """
    parts = [head]
    if not isinstance(getattr(head, 'in_channels', None), int):
        named = [part for child in head.children() if isinstance(child, nn.ModuleDict) for part in child.values()]
        parts = named if all(isinstance(getattr(part, 'in_channels', None), int) for part in named) else []
    found = [(part, int(getattr(part, 'in_channels', 0))) for part in parts]
    return found or [(head, 0)]


def widen_head(head: Any, name: str, in_channels: int, width: int) -> None:
    """Let a classification head that reads `in_channels` features read vectors of another width; draw it afresh."""
    layers = (layer for layer in head.modules() if isinstance(layer, nn.Linear))
    first = next((layer for layer in layers if layer.in_features == in_channels), None)
    if first is None:
        raise ValueError(
            f'auxiliary.head: {name} of type {type(head).__name__} has no linear layer that reads its '
            f'{in_channels or "unknown number of"} input features, so it cannot be made to read the {width} of this '
            'auxiliary.'
        )
    read_width(first, width)
    draw_afresh(head, but=first)
    head.in_channels = width


def read_width(layer: nn.Linear | nn.Conv2d, width: int) -> None:
    """Let a layer read `width` features or channels, with fresh weights. It stays of its class: it may normalise."""
    groups = getattr(layer, 'groups', 1)
    outputs, _, *kernel = layer.weight.shape
    layer.weight = nn.Parameter(layer.weight.new_empty(outputs, width // groups, *kernel))
    if isinstance(layer, nn.Linear):
        layer.in_features = width
    else:
        layer.in_channels = width
    layer.reset_parameters()


def draw_afresh(layers: nn.Module, but: nn.Module | None = None) -> None:
    """Give every layer, `but` one, new weights as torch draws them."""
    for layer in layers.modules():
        reset: Any = getattr(layer, 'reset_parameters', None)
        if layer is not but and reset is not None:
            reset()
