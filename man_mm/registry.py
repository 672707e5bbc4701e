"""Child registries of MMEngine's.

MMEngine imports this module by itself when a config names a type `man_mm.X`, and then the modules in `locations`: no
`custom_imports` is needed.
"""

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import Registry

__all__ = ['HOOKS', 'MODELS', 'OPTIM_WRAPPERS']

MODELS = Registry('model', parent=ROOT_MODELS, scope='man_mm', locations=['man_mm.local', 'man_mm.auxiliary'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='man_mm', locations=['man_mm.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=ROOT_OPTIM_WRAPPERS, scope='man_mm', locations=['man_mm.engine'])
