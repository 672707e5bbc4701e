"""Child registries of MMEngine's.

MMEngine imports this module by itself when a config names a type `man_mm.X`, and then the modules in `locations`: no
`custom_imports` is needed.
"""

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
]

MODELS = Registry(
    'model',
    parent=ROOT_MODELS,
    scope='man_mm',
    locations=['man_mm.local', 'man_mm.auxiliary', 'man_mm.readout', 'man_mm.models'],
)
DATASETS = Registry('dataset', parent=ROOT_DATASETS, scope='man_mm', locations=['man_mm.datasets.classification'])
DATA_SAMPLERS = Registry('data sampler', parent=ROOT_DATA_SAMPLERS, scope='man_mm', locations=['man_mm.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=ROOT_MODEL_WRAPPERS, scope='man_mm', locations=['man_mm.engine'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='man_mm', locations=['man_mm.engine', 'man_mm.runs'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=ROOT_OPTIM_WRAPPERS, scope='man_mm', locations=['man_mm.engine'])
