"""Values of any depth: what they hold, whether they are the same, copies that share their tensors."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['StandIn', 'attributes', 'copied', 'is_same', 'key_of', 'leaves', 'tensors']

PLAIN = (type(None), bool, int, float, str, bytes, range, type(Ellipsis), torch.dtype, torch.device)
"""Types of values that equal each other wherever they come from."""


class StandIn:
    """Takes the place of a method, as an attribute of the instance; no setting of it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


def attributes(value: Any) -> dict[str, Any]:
    return {name: part for name, part in vars(value).items() if not isinstance(part, StandIn)}


def _is_leaf(value: Any) -> bool:
    """Whether a value is told by its identity: tensors, arrays, functions, classes, layers."""
    return isinstance(value, (Tensor, nn.Module, type, FunctionType, MethodType)) or not hasattr(value, '__dict__')


def key_of(value: Any, leaf_key: Callable[[Any], Hashable], path: tuple[int, ...] = ()) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), value
    if id(value) in path:  # e.g. samplers that are their own part
        return 'above', path.index(id(value))
    path = (*path, id(value))
    if isinstance(value, (list, tuple)):
        return type(value), tuple(key_of(part, leaf_key, path) for part in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(key_of(part, leaf_key, path) for part in value)
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    if not isinstance(value, Mapping):
        if _is_leaf(value):
            return leaf_key(value)
        return type(value), key_of(attributes(value), leaf_key, path)
    return type(value), frozenset((name, key_of(part, leaf_key, path)) for name, part in value.items())


def leaves(value: Any) -> Iterator[Any]:
    """What lists, dicts and objects hold at any depth, plain values aside."""
    if isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, Mapping):
        yield from leaves(list(value.values()))
    elif _is_leaf(value):
        if not isinstance(value, PLAIN):
            yield value
    else:
        yield from leaves(attributes(value))


def tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(value) if isinstance(leaf, Tensor))


def copied(value: Any) -> Any:
    """Lists, sets, dicts and objects of their own, which may be changed, of the same tensors."""
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    if type(value) is set:
        return set(value)
    if type(value) is dict:
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, PLAIN) or _is_leaf(value):
        return value
    other = copy.copy(value)
    if hasattr(value, '__dict__'):
        vars(other).update({name: copied(part) for name, part in vars(value).items()})
    return other


def is_same(before: Any, after: Any) -> bool:
    """Whether two dicts or two lists hold the same objects."""
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(after[name] is part for name, part in before.items())
    return len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))
