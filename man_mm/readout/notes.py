"""What parts of a model note of the losses that they have seen, put back after a loss that does not count."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ['Notes']

TOOLS = ('assign', 'sample', 'encode')
"""Methods of assigners, samplers and coders, whose settings heads may move."""

NUMBERS = (int, float, np.generic)


class Notes:
    """The numbers, lists of numbers and buffers of a model's parts, and the numbers of their assigners and samplers.

    There heads count: Dynamic R-CNN its histories and what it sets by them, Seesaw samples by class, GHM gradients.
    Running statistics of norms are no such notes.

    Args:
        host: The model; of itself, only what it notes directly.
        parts: Parts of it, of which all submodules are looked at.
    """

    def __init__(self, host: nn.Module, parts: Iterable[nn.Module]) -> None:
        below = (module for part in parts for module in part.modules() if not _is_layer(module))
        modules = [host, *dict.fromkeys(below)]
        tools = [tool for module in modules for value in vars(module).values() for tool in _tools(value)]
        self._notes = [vars(owner) for owner in {id(owner): owner for owner in (*modules, *tools)}.values()]
        self._buffers = [module._buffers for module in modules if module._buffers]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """After it, notes are what they were before."""
        before = [{name: note for name, note in notes.items() if _is_note(note)} for notes in self._notes]
        lists = [(note, list(note)) for own in before for note in own.values() if isinstance(note, list)]
        buffers = [
            (module, name, buffer, buffer._version, buffer.clone())
            for module in self._buffers
            for name, buffer in module.items()
            if buffer is not None
        ]
        try:
            yield
        finally:
            for notes, own in zip(self._notes, before, strict=True):
                notes.update(own)  # what is new stays: settings that a loss infers when it is first called
            for note, numbers in lists:
                note[:] = numbers
            with torch.no_grad():
                for module, name, buffer, version, content in buffers:
                    if buffer._version != version:
                        buffer.copy_(content)
                    module[name] = buffer


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) or type(module).__module__.startswith('torch.')


def _tools(value: Any) -> Iterator[Any]:
    """Assigners and the like among attributes; a cascade has a list of them."""
    for part in value if isinstance(value, list) else [value]:
        is_object = hasattr(part, '__dict__') and not isinstance(part, (nn.Module, type))
        if is_object and any(callable(getattr(part, name, None)) for name in TOOLS):
            yield part


def _is_note(value: Any) -> bool:
    return isinstance(value, NUMBERS) or (isinstance(value, list) and all(isinstance(part, NUMBERS) for part in value))
