"""The mechanism: unroll a backbone, cut it, train it module by module. Knows no task and no optimizer."""

from . import families  # noqa: F401  (registers the descriptions)
from .backbone import LocalBackbone, find_local_backbone
from .bank import FeatureBank
from .evaluating import evaluating
from .handover import HandedOver, Handover
from .out_of_memory import explain_out_of_memory
from .partition import Partition, partition
from .place import Place
from .probe import image_channels
from .signal import current_local_backward, publish_local_backward
from .unroll import StageOutputs, Unit, Unrolled, copy_layers, register_unroll, unroll

__all__ = [
    'FeatureBank',
    'HandedOver',
    'Handover',
    'LocalBackbone',
    'Partition',
    'Place',
    'StageOutputs',
    'Unit',
    'Unrolled',
    'copy_layers',
    'current_local_backward',
    'evaluating',
    'explain_out_of_memory',
    'find_local_backbone',
    'image_channels',
    'partition',
    'publish_local_backward',
    'register_unroll',
    'unroll',
]
