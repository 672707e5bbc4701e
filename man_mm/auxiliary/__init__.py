"""Auxiliary networks, one kind a file, all of one interface."""

from .auglocal import AugLocal
from .classifier import ClassifierAuxiliary
from .dgl import DGL
from .dgl_pyramid import DGLPyramid
from .infopro import InfoPro
from .predsim import PredSim
from .slim_slm import SlimSLM
from .slm import SLM

__all__ = [
    'DGL',
    'SLM',
    'AugLocal',
    'ClassifierAuxiliary',
    'DGLPyramid',
    'InfoPro',
    'PredSim',
    'SlimSLM',
]
