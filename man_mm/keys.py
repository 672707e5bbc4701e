"""Checks of config keys: a wrong one is a ValueError that names the key, its value and what is legal."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ['count', 'is_count', 'legal_keys', 'refuse_unknown_keys', 'strict_keys', 'switch', 'type_name']

Cls = TypeVar('Cls', bound=type)


def strict_keys(cls: Cls) -> Cls:
    """Class decorator: an unknown config key raises ValueError, which names the key, its value and the legal keys.

    Arguments in the class attribute `given_keys` come from the package and are no keys of a config; the class attribute
    `key_hint` is the end of the message.
    """
    init = cls.__init__  # type: ignore[misc]  # of this very class

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            refuse_unknown_keys(cls, kwargs)
        init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[misc]
    return cls


def refuse_unknown_keys(cls: type, settings: Mapping[str, Any]) -> None:
    """Raise ValueError if `settings` are not all arguments of `cls`; see `strict_keys`."""
    legal = legal_keys(cls)
    unknown = {key: value for key, value in settings.items() if key not in legal}
    if unknown:
        own, hint = legal - set(getattr(cls, 'given_keys', ())), getattr(cls, 'key_hint', '')
        raise ValueError(f'man_mm.{cls.__name__} has no key {unknown}. Its keys: {sorted(own)}.{hint and " " + hint}')


def legal_keys(cls: type) -> set[str]:
    """Names of the arguments of `cls`, through `**kwargs` up to the class that takes no more of them."""
    legal: set[str] = set()
    for owner in cls.__mro__:
        if '__init__' in vars(owner):
            parameters = inspect.signature(vars(owner)['__init__']).parameters.values()
            legal |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return legal - {'self'}


def switch(key: str, value: Any) -> bool:
    """Return the value of a config switch; a command line turns `no` and `off` into strings, which are true.

    Raises:
        ValueError: If it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{key}={value!r} must be True or False.')
    return value


def count(key: str, value: Any, least: int = 1) -> int:
    """Return the value of a config key that counts something: an integer, `least` or more.

    Raises:
        ValueError: If it is no such integer; True, 2.0 and '2' are none.
    """
    if not is_count(value, least):
        raise ValueError(f'{key}={value!r} must be an integer, {least} or more.')
    return value


def is_count(value: Any, least: int = 1) -> bool:
    """Whether `value` is an integer, no bool, and `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def type_name(kind: Any) -> str:
    """Name of a type, which a config has as a class, or as a string with or without a scope."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
