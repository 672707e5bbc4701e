"""How a `LocalBackbone` gets to know the parts of the model that is being built around it.

A model builds its backbone before its heads, and knows nothing of auxiliaries. Private heads copy the model's own, and
must exist before DDP and the optimizer look at the parameters, so they are made when the model registers a head.
"""

from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

__all__ = ['BACKBONES', 'NO_HEADS', 'on_sibling']

BACKBONES = ('backbone', 'generator')
"""Names under which models hold the network that a `LocalBackbone` wraps; the second one is MMagic's."""

NO_HEADS = ('data_preprocessor', *BACKBONES, 'neck')
"""Parts of a model that are no heads."""

OnSibling = Callable[[Any, str, nn.Module], None]

_callbacks: 'WeakKeyDictionary[nn.Module, OnSibling]' = WeakKeyDictionary()
_hosts: 'WeakKeyDictionary[nn.Module, ref[nn.Module]]' = WeakKeyDictionary()


def on_sibling(backbone: nn.Module, callback: OnSibling) -> None:
    """Call `callback(backbone, name, module)` for every module that the model of `backbone` registers beside it."""
    _install()
    _callbacks[backbone] = callback


@cache
def _install() -> None:
    """Register one hook for good: torch walks its registration hooks while modules are made, so none may vanish."""
    register_module_module_registration_hook(_on_registration)


def _on_registration(host: nn.Module, name: str, child: nn.Module | None) -> None:
    if child is None:
        return
    if child in _callbacks:
        _hosts[child] = ref(host)
        for sibling, module in host.named_children():  # built before the backbone
            _callbacks[child](child, sibling, module)
        return
    for backbone, callback in list(_callbacks.items()):
        known = _hosts.get(backbone)
        if known is not None and known() is host:
            callback(backbone, name, child)
