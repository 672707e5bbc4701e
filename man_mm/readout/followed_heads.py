"""Private heads follow what hooks do to the model's own: another loss, margins, a mode."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..local import Auxiliary

__all__ = ['FollowedHeads']

OF_TORCH = {*vars(nn.Module()), '_parameters'}
"""Attributes that every module has; parameters are trained, modules and buffers are looked at apart."""
OF_WIDTH = {'in_channels', 'in_features'}
"""What a head reads may differ from the model's."""
PLAIN = (bool, int, float, str, type(None), list, tuple, dict)
MISSING = object()


class FollowedHeads:
    """What changes in the heads of a model between two steps, other than their weights, changes in their copies, too.

    What losses change is left alone: every head counts for itself.

    Args:
        host: The model.
        auxiliaries: Their heads of the model's own classes follow.
    """

    def __init__(self, host: nn.Module, auxiliaries: Iterable[Auxiliary]) -> None:
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        for auxiliary in auxiliaries:
            for name, own in auxiliary.heads.items():
                source = getattr(host, name)
                is_copy = auxiliary.head == 'private'
                pairs = _pairs(source, own) if is_copy or type(own) is type(source) else []
                self._pairs += pairs
                if is_copy:
                    _catch_up(pairs)
        self._sources = list(dict.fromkeys(source for source, _ in self._pairs))
        self._before: dict[nn.Module, dict[str, Any]] = {}
        self.note()

    def note(self) -> None:
        """Called after a step: from now on, what changes is a hook's doing."""
        self._before = {source: _state(source) for source in self._sources}

    def follow(self) -> None:
        """Called before a step."""
        changed = {
            source: {
                name: value for name, value in _state(source).items() if _changed(before.get(name, MISSING), value)
            }
            for source, before in self._before.items()
        }
        for source, own in self._pairs:
            for name, value in changed[source].items():
                _give(own, name, value)


def _pairs(source: nn.Module, own: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    theirs = dict(own.named_modules())
    pairs = [(module, theirs[path]) for path, module in source.named_modules() if path in theirs]
    return [(module, other) for module, other in pairs if type(module) is type(other)]


def _catch_up(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Give copies what a hook has changed in the model's head since they were made."""
    for source, own in pairs:
        for name, value in _state(source).items():
            if name not in OF_WIDTH and _differs(vars(own).get(name, own._buffers.get(name, value)), value):
                _give(own, name, value)


def _state(module: nn.Module) -> dict[str, Any]:
    """Attributes, buffers and submodules by name; of lists and dicts, copies, which do not change with them.

    Methods that stand in for others for a time are left out.
    """
    own = {name: value for name, value in vars(module).items() if name not in OF_TORCH and not callable(value)}
    state = {**own, **module._buffers, **module._modules}
    return {name: copy.copy(value) if isinstance(value, (list, dict)) else value for name, value in state.items()}


def _changed(before: Any, value: Any) -> bool:
    if before is value:
        return False
    if isinstance(before, PLAIN) and isinstance(value, PLAIN):
        try:
            return bool(before != value)
        except (RuntimeError, ValueError):  # tensors or arrays in a list
            return True
    return True


def _differs(own: Any, value: Any) -> bool:
    """Whether a copy, of which objects are others in any case, says something else."""
    if isinstance(own, FakeTensor) or isinstance(value, FakeTensor):  # of an estimate: they say nothing
        return False
    if isinstance(own, Tensor) and isinstance(value, Tensor):
        return own.shape == value.shape and not torch.equal(own, value)
    return isinstance(own, PLAIN) and isinstance(value, PLAIN) and bool(own != value)


def _give(own: nn.Module, name: str, value: Any) -> None:
    """Set what another head has; layers and lists become its own."""
    is_own = isinstance(value, (nn.Module, Tensor, list, dict))
    setattr(own, name, copy.deepcopy(value) if is_own else value)
