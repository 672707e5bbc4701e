"""The backbone families that `unroll` knows, found by the dotted name of their class: no host library is imported.

A file here is found by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

__all__: list[str] = []

for _file in iter_modules(__path__):
    import_module(f'{__name__}.{_file.name}')  # it registers its descriptions
