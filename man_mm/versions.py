"""What differs between the versions of Python and torch that man_mm runs on: Python 3.10 to 3.12, torch 2.1 to 2.11."""

import logging
from typing import Any

import torch
from mmengine.logging import print_log
from torch.utils import flop_counter
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ['KEEPS_STORAGES', 'add_note', 'autocast_dtype', 'flops_of', 'is_autocast_on', 'set_autocast', 'tree_leaves']

BY_DEVICE = hasattr(torch, 'get_autocast_dtype')
"""torch >= 2.4 keeps autocast by device; before, CUDA has the plain names of functions and the CPU names of its own."""

_tensor = torch.zeros(1, device='cpu')
KEEPS_STORAGES = _tensor.untyped_storage() is _tensor.untyped_storage()
"""Whether a storage is one object of Python's for as long as it lives, so that weak references can follow it; torch 2.1
makes a new one at each look, and references to it end in a segmentation fault."""


def add_note(error: BaseException, note: str) -> None:
    """Let whoever reads `error` read `note` too: as its note (Python >= 3.11), or in the log, before the traceback."""
    if hasattr(error, 'add_note'):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, '__notes__', ()), note]  # type: ignore[attr-defined]  # where others look
        print_log(note, logger='current', level=logging.ERROR)


def is_autocast_on(device: str) -> bool:
    """Whether autocast is on for `'cpu'` or `'cuda'`."""
    if BY_DEVICE:
        return torch.is_autocast_enabled(device)
    return torch.is_autocast_cpu_enabled() if device == 'cpu' else torch.is_autocast_enabled()


def set_autocast(device: str, enabled: bool) -> None:
    """Switch autocast on or off for `'cpu'` or `'cuda'`."""
    if BY_DEVICE:
        torch.set_autocast_enabled(device, enabled)
    elif device == 'cpu':
        torch.set_autocast_cpu_enabled(enabled)
    else:
        torch.set_autocast_enabled(enabled)


def autocast_dtype(device: str) -> torch.dtype:
    """What autocast computes in on `'cpu'` or `'cuda'`."""
    if BY_DEVICE:
        return torch.get_autocast_dtype(device)
    return torch.get_autocast_cpu_dtype() if device == 'cpu' else torch.get_autocast_gpu_dtype()


def tree_leaves(tree: Any) -> list[Any]:
    """All leaves of nested containers, in their order; torch < 2.2 has no function for it."""
    return tree_flatten(tree)[0]


def flops_of(operator: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Floating-point operations of one call of an aten operator, by torch's own formulas; 0 where it has none.

    torch >= 2.2 has formulas of tensors, before of shapes.
    """
    packet = operator._overloadpacket
    if hasattr(flop_counter, 'flop_registry'):
        formula = flop_counter.flop_registry.get(packet)
        return 0 if formula is None else formula(*args, **kwargs, out_val=result)
    formula = flop_counter.flop_mapping.get(packet)  # type: ignore[attr-defined]
    if formula is None:
        return 0
    args, kwargs, out_shape = tree_map(flop_counter.get_shape, (args, kwargs, result))
    return formula(*args, **kwargs, out_shape=out_shape)
