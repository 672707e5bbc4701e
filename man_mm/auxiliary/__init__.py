"""Auxiliary networks, one kind a file, all of one interface."""

from .auglocal import AugLocal
from .base import Auxiliary, Task
from .classifier import ClassifierAuxiliary
from .dgl import DGL
from .infopro import InfoPro
from .predsim import PredSim
from .slm import SLM

__all__ = ['DGL', 'SLM', 'AugLocal', 'Auxiliary', 'ClassifierAuxiliary', 'InfoPro', 'PredSim', 'Task']
