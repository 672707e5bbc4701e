"""Checks of config keys: a wrong one is a ValueError that names the key, its value and what is legal."""

import functools
import inspect
from typing import Any, TypeVar

__all__ = ['count', 'is_count', 'legal_keys', 'strict_keys', 'switch']

Cls = TypeVar('Cls', bound=type)


def strict_keys(cls: Cls) -> Cls:
    """Class decorator: an unknown config key raises ValueError, which names the key, its value and the legal keys.

    Arguments in the class attribute `given_keys` come from the package and are no keys of a config; the class attribute
    `key_hint` is the end of the message.
    """
    legal = legal_keys(cls)
    given = set(getattr(cls, 'given_keys', ()))
    init = cls.__init__  # type: ignore[misc]  # of this very class

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        unknown = {key: value for key, value in kwargs.items() if key not in legal}
        if unknown and type(self) is cls:
            hint = getattr(cls, 'key_hint', '')
            raise ValueError(
                f'man_mm.{cls.__name__} has no key {unknown}. Its keys: {sorted(legal - given)}.{hint and " " + hint}'
            )
        init(self, *args, **kwargs)

    cls.__init__ = checked_init  # type: ignore[misc]
    return cls


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
