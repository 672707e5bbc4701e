"""One small file per host library. A file here is found by itself."""

from importlib import import_module
from pkgutil import iter_modules

from .base import (
    HostTask,
    Readout,
    build_readout,
    holder_of,
    readout_of,
    refuse_unserved,
    register_readout,
    register_unserved,
)
from .followed_heads import FollowedHeads

__all__ = [
    'FollowedHeads',
    'HostTask',
    'Readout',
    'build_readout',
    'holder_of',
    'readout_of',
    'refuse_unserved',
    'register_readout',
    'register_unserved',
]

for _file in iter_modules(__path__):
    import_module(f'{__name__}.{_file.name}')  # it registers its readouts
