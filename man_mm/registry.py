"""Child registries of MMEngine's.

MMEngine imports this module by itself when a config names a type `man_mm.X`, and then the modules in `locations`: no
`custom_imports` is needed.
"""

import functools
import inspect
from typing import Any, TypeVar

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import Registry

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'HOOKS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'legal_keys',
    'strict_keys',
    'switch',
]

MODELS = Registry(
    'model', parent=ROOT_MODELS, scope='man_mm', locations=['man_mm.local', 'man_mm.auxiliary', 'man_mm.models']
)
DATASETS = Registry('dataset', parent=ROOT_DATASETS, scope='man_mm', locations=['man_mm.datasets.classification'])
DATA_SAMPLERS = Registry('data sampler', parent=ROOT_DATA_SAMPLERS, scope='man_mm', locations=['man_mm.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=ROOT_MODEL_WRAPPERS, scope='man_mm', locations=['man_mm.engine'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='man_mm', locations=['man_mm.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=ROOT_OPTIM_WRAPPERS, scope='man_mm', locations=['man_mm.engine'])

Cls = TypeVar('Cls', bound=type)


def strict_keys(cls: Cls) -> Cls:
    """Class decorator: an unknown config key raises ValueError, which names the key, its value and the legal keys.

    Arguments in the class attribute `given_keys` come from the package and are no keys of a config.
    """
    legal = legal_keys(cls)
    given = set(getattr(cls, 'given_keys', ()))
    init = cls.__init__

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        unknown = {key: value for key, value in kwargs.items() if key not in legal}
        if unknown and type(self) is cls:
            raise ValueError(f'man_mm.{cls.__name__} has no key {unknown}. Its keys: {sorted(legal - given)}.')
        init(self, *args, **kwargs)

    cls.__init__ = checked_init
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
