"""The mechanism: unroll a backbone, cut it, train it module by module. Knows no task and no optimizer."""

from . import families  # noqa: F401  (registers the descriptions)
from .auxiliary import Auxiliary, Site, Task, layers_of
from .backbone import LocalBackbone, find_local_backbone
from .bank import FeatureBank
from .dry_run import Shape, evaluating, image_channels
from .families.stages import staged, unroll_stages
from .heads import draw_afresh, on_host, read_width
from .module import LocalModule
from .partition import Partition, balanced_cuts, partition
from .step import LocalStep, listen_to_phases, phase, train_modules
from .units import Activation, StageOutputs, Unit, Unrolled, copy_layers, detached, run_units
from .unroll import register_unroll, unroll

__all__ = [
    'Activation',
    'Auxiliary',
    'FeatureBank',
    'LocalBackbone',
    'LocalModule',
    'LocalStep',
    'Partition',
    'Shape',
    'Site',
    'StageOutputs',
    'Task',
    'Unit',
    'Unrolled',
    'balanced_cuts',
    'copy_layers',
    'detached',
    'draw_afresh',
    'evaluating',
    'find_local_backbone',
    'image_channels',
    'layers_of',
    'listen_to_phases',
    'on_host',
    'partition',
    'phase',
    'read_width',
    'register_unroll',
    'run_units',
    'staged',
    'train_modules',
    'unroll',
    'unroll_stages',
]
