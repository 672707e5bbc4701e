"""Memo: what is made of a batch alone, without predictions, is made once."""

import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .values import attributes, copied, is_same, key_of, leaves, tensors

__all__ = ['Memo']

FOLLOWED = frozenset(('cat', 'reshape', 'squeeze', '__getitem__', '__and__', 'ge', 'gt', 'le', 'lt', 'eq', 'ne', 'any'))
"""Functions of torch whose result is known if their arguments are."""

WAITING = frozenset(('__bool__', 'nonzero', 'unique'))
"""Functions of torch whose answer the host waits for; it is the same for the same known arguments."""

ASKED = FOLLOWED | WAITING

LAYERS = frozenset(
    ('in_channels', 'feat_channels', 'stacked_convs', 'conv_bias', 'conv_cfg', 'norm_cfg', 'init_cfg', 'test_cfg')
)
"""Settings of a head that say nothing of its targets, so that light heads share them with others."""

INFOS = '_raw_positive_infos'
"""Where mmdet's heads note what they have just assigned, for the masks that are predicted from it."""


class _Unknown(Exception):
    """A value that is made of something else than the batch."""


@dataclass
class _Entry:
    """What a call returned, what it left of the lists that it was given, what it noted in its head's `INFOS`."""

    result: Any
    lists: list[tuple[int, Any]]
    infos: dict[str, Any]


class Memo:
    """What calls returned whose arguments are known: plain values, parts of the batch, what such calls returned.

    A prediction is none of these, and nothing is kept that was made of one. A tensor is known by its identity, as long
    as it is not changed in place. A call is kept if it drew no random number and made nothing but its result; then an
    equal call would do the same again, to the bit.

    Heads with priors that are learnt, and those that assign by a layer (`nn.Module`), are not served: a parameter and
    what a layer makes are not of the batch alone. They make their targets for every loss, as upstream does.

    Args:
        batch: The targets of a batch; tensors of any depth in lists, dicts and objects.
    """

    def __init__(self, batch: Any) -> None:
        self._numbers = count()
        self._tokens: dict[int, tuple[ref[Tensor], int, int]] = {}  # by id: tensor, number, version
        self._objects: dict[int, Any] = {}  # what else the batch holds, by id
        self._derived: dict[Hashable, int] = {}
        self._entries: dict[Hashable, _Entry] = {}
        self._settings: dict[int, tuple[Any, Hashable]] = {}  # by id: the owner, which is kept alive, and its settings
        self._loss: ExitStack | None = None
        self.learn(batch)

    def learn(self, value: Any) -> None:
        """From now on all of `value` is known."""
        for leaf in leaves(value):
            if isinstance(leaf, Tensor):
                if not self._is_known(leaf):
                    self._name(leaf, next(self._numbers))
            else:
                self._objects[id(leaf)] = leaf

    @contextmanager
    def loss(self) -> Iterator[None]:
        """In it, from the first call that is known on, questions to the device about known tensors are asked once."""
        before = self._loss
        try:
            with ExitStack() as self._loss:
                yield
        finally:
            self._loss = before

    def call(self, owner: Any, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `function`, the method `name` of `owner`, returns, by calling it, or from a call that was equal.

        Calls are equal if class, settings and method are, and the arguments are known and the same.
        """
        try:
            key = (name, self._settings_of(owner), self._key((args, kwargs)))
        except _Unknown:
            return function(*args, **kwargs)
        if self._loss is not None:
            self._loss.enter_context(_Asking(self))
            self._loss = None
        entry = self._entries.get(key)
        if entry is None or not all(map(self._is_known, tensors((entry.result, entry.lists)))):
            return self._make(key, owner, function, args, kwargs)
        for index, left in entry.lists:
            args[index][:] = copied(left)
        getattr(owner, INFOS, {}).update(entry.infos)
        return copied(entry.result)

    def _make(self, key: Hashable, owner: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        entries, state = dict(self._entries), _random_state()
        given, lists = list(tensors((args, kwargs))), {i: list(a) for i, a in enumerate(args) if isinstance(a, list)}
        attributes, infos = dict(vars(owner)), dict(getattr(owner, INFOS, {}))
        result = function(*args, **kwargs)
        entry = _Entry(
            copied(result),
            [(i, copied(args[i])) for i, before in lists.items() if not is_same(before, args[i])],
            {name: note for name, note in getattr(owner, INFOS, {}).items() if note is not infos.get(name)},
        )
        made = list(tensors((result, entry.lists)))
        did_more = (
            state != _random_state()
            or not is_same(attributes, vars(owner))
            or _settings(owner) != self._settings_of(owner)
        )
        if did_more or any(t.requires_grad for t in made) or not all(map(self._is_known, given)):
            return result
        self._entries = {**entries, key: entry}  # not what it asked for on its way
        self.learn((result, entry.lists))
        return result

    def ask(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a function of torch returns, known if its arguments are; one that would wait again is not called."""
        if isinstance(args[0], Tensor) and not self._is_known(args[0]):  # most, so the key comes after
            return function(*args, **kwargs)
        try:
            key = (function.__name__, self._key((args, kwargs)))
        except _Unknown:
            return function(*args, **kwargs)
        entry = self._entries.get(key)
        if entry is not None and all(map(self._is_known, tensors(entry.result))):
            return entry.result
        result = function(*args, **kwargs)
        if function.__name__ in WAITING or _is_masked(function, args):
            self._entries[key] = _Entry(result, [], {})
            self.learn(result)
        elif not self._is_known(result):  # some return their argument
            self._name(result, self._derived.setdefault(key, next(self._numbers)))
        return result

    def _name(self, tensor: Tensor, number: int) -> None:
        self._tokens[id(tensor)] = ref(tensor), number, tensor._version

    def _is_known(self, tensor: Tensor) -> bool:
        token = self._tokens.get(id(tensor))
        return token is not None and token[0]() is tensor and token[2] == tensor._version

    def _key(self, value: Any) -> Hashable:
        """A key that known values share if they are the same.

        Raises:
            _Unknown: If a part of `value` is not known.
        """
        return key_of(value, self._leaf_key)

    def _leaf_key(self, leaf: Any) -> Hashable:
        if isinstance(leaf, Tensor) and self._is_known(leaf):
            return 'tensor', self._tokens[id(leaf)][1]
        if id(leaf) in self._objects:
            return 'object', id(leaf)
        raise _Unknown

    def _settings_of(self, owner: Any) -> Hashable:
        if id(owner) not in self._settings:
            self._settings[id(owner)] = owner, _settings(owner)
        return self._settings[id(owner)][1]


class _Asking(TorchFunctionMode):
    def __init__(self, memo: Memo) -> None:
        super().__init__()
        self.memo = memo

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, '__name__', '') in ASKED:
            return self.memo.ask(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _is_masked(function: Callable[..., Any], args: Any) -> bool:
    return function.__name__ == '__getitem__' and any(t.dtype == torch.bool for t in tensors(args[1:]))


def _settings(owner: Any) -> Hashable:
    """What decides how a head, or what it assigns by, makes targets: its class and its settings."""
    if not isinstance(owner, nn.Module):
        return key_of(owner, _setting_key)
    others = LAYERS | _of_every_module()
    own = {name: value for name, value in attributes(owner).items() if name not in others}
    return type(owner), id(owner) if owner._buffers else None, key_of(own, _setting_key)


def _setting_key(leaf: Any) -> Hashable:
    if isinstance(leaf, np.random.RandomState):
        return _state(leaf)
    if isinstance(leaf, Tensor) and leaf.device.type == 'cpu':
        leaf = leaf.detach().numpy()
    return (leaf.dtype.str, leaf.shape, leaf.tobytes()) if isinstance(leaf, np.ndarray) else ('object', id(leaf))


@cache
def _of_every_module() -> frozenset[str]:
    return frozenset((*vars(nn.Module()), '_is_init', '_params_init_info', INFOS))


def _random_state() -> tuple[Any, ...]:
    """Where the generators of random numbers stand."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return [state.numpy().tobytes() for state in states], _state(np.random.mtrand._rand), random.getstate()


def _state(generator: np.random.RandomState) -> tuple[Any, ...]:
    state: Any = generator.get_state()
    return state[1].tobytes(), *state[2:]
