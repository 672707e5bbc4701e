"""Imported by the server that other processes are forked from: what each of them would import and read anew."""

from importlib import import_module

from mmengine.config import Config

import man_mm.analysis.planner
import man_mm.auxiliary
import man_mm.engine
import man_mm.readout  # noqa: F401

from . import configs
from .commands import ROOT

UPSTREAMS = {
    'mmdet': 'fcos_r50_man_k4_coco',
    'mmpretrain': 'deit-small_man_k4_in1k',
    'mmagic': 'swinir_x2_man_k4_div2k',
}
"""A config of ours that inherits from each library."""

configs.prepare()
for library, name in UPSTREAMS.items():
    for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization'):
        import_module(f'{library}.{part}')
    Config.fromfile(ROOT / f'configs/man/{name}.py')
configs.spare_the_collector()
