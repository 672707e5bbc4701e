"""Supervised local learning with a feature bank (MAN) for OpenMMLab models.

Importing this package needs torch and mmengine only; OpenMMLab's task libraries are reached through their registries.
"""

from .runs.checkpoint_file import explain_checkpoint_errors
from .runs.compat import allow_checkpoint_globals, find_own_configs, restore_numpy_names

__version__ = '0.1.0'
__all__ = ['__version__']

allow_checkpoint_globals()
restore_numpy_names()
find_own_configs()
explain_checkpoint_errors()
