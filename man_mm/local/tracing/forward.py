"""A forward as data: calls of layers and functions, one after the other, that run on any network with these layers."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from torch import nn

__all__ = ['IMAGES', 'Forward', 'Own', 'Ref', 'Step', 'ancestors', 'called', 'filled', 'leaves', 'run_steps']

IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
IMAGES = 'images'
"""Name of the value that a forward is given."""


@dataclass(frozen=True)
class Ref:
    """A value of the forward, in the arguments of a later step."""

    name: str


@dataclass(frozen=True)
class Own:
    """A tensor of the network itself, in the arguments of a step."""

    path: str


@dataclass(frozen=True)
class Step:
    """One call.

    Args:
        result: Name of what it makes.
        layer: Path of the layer that is called; None for a function.
        function: The function, or the name of a method of its first argument.
        args: Arguments, with `Ref` for values of the forward and `Own` for the network's tensors.
        kwargs: Arguments by name.
        expected: What it made when the forward was traced, in a tuple, if the forward decided by it: another value
            would lead elsewhere.
    """

    result: str
    layer: str | None
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: tuple[Any, ...] = ()

    def __call__(self, net: nn.Module, values: Mapping[str, Any]) -> Any:
        args, kwargs = filled(self.args, net, values), filled(self.kwargs, net, values)
        if self.layer is not None:
            return net.get_submodule(self.layer)(*args, **kwargs)
        made = called(self.function, args, kwargs)
        if self.expected and made != self.expected[0]:
            raise ValueError(
                f'a backbone was traced with {self.result} = {self.expected[0]}, by which it decides what to do, but '
                f'now it is {made}. If that is a size, train on images of one size (e.g. backbone.img_size); '
                'else describe the backbone with man_mm.local.register_unroll.'
            )
        return made

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the values among its arguments."""
        return frozenset(item.name for item in leaves((self.args, self.kwargs)) if isinstance(item, Ref))

    @property
    def is_in_place(self) -> bool:
        """Whether it is a function that changes its first argument."""
        if isinstance(self.function, str):
            return self.function.endswith('_')
        return self.function in IN_PLACE

    @property
    def is_plain(self) -> bool:
        """Whether it applies a layer to one value, and no more."""
        return self.layer is not None and not self.kwargs and len(self.args) == 1 and isinstance(self.args[0], Ref)


def called(function: Any, args: Any, kwargs: Any) -> Any:
    """What a function, or the method of that name of the first argument, returns."""
    if isinstance(function, str):
        return getattr(args[0], function)(*args[1:], **kwargs)
    return function(*args, **kwargs)


@dataclass(frozen=True)
class Forward:
    """Steps, and what is returned after them: `Ref`, in containers."""

    steps: tuple[Step, ...]
    makes: Any

    @cached_property
    def returned(self) -> frozenset[str]:
        """Names of the values that are returned."""
        return frozenset(item.name for item in leaves(self.makes) if isinstance(item, Ref))


def run_steps(steps: Sequence[Step], net: nn.Module, values: dict[str, Any]) -> dict[str, Any]:
    """Run `steps` with the layers found in `net`; what they make is added to `values`, by name."""
    for step in steps:
        values[step.result] = step(net, values)
    return values


def ancestors(steps: Sequence[Step], values: Iterable[str]) -> frozenset[str]:
    """Names of `values` and of all that leads to them."""
    needed = set(values)
    for step in reversed(steps):
        if step.result in needed:
            needed |= step.reads
    return frozenset(needed)


def filled(value: Any, net: nn.Module, values: Mapping[str, Any]) -> Any:
    """`value` with what `Ref` and `Own` in it stand for, in containers of the same kinds."""
    match value:
        case Ref():
            return values[value.name]
        case Own():
            return attrgetter(value.path)(net)
        case tuple() | list():
            return type(value)(filled(item, net, values) for item in value)
        case dict():
            return {key: filled(item, net, values) for key, item in value.items()}
        case slice():
            return slice(*(filled(item, net, values) for item in (value.start, value.stop, value.step)))
    return value


def leaves(value: Any) -> Iterator[Any]:
    """What lies in containers."""
    match value:
        case tuple() | list():
            for item in value:
                yield from leaves(item)
        case dict():
            yield from leaves(list(value.values()))
        case slice():
            yield from leaves((value.start, value.stop, value.step))
        case _:
            yield value
