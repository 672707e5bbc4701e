"""One small file per host library."""

from . import mmdet  # noqa: F401  (registers its readout)
from .base import Readout, build_readout, register_readout

__all__ = ['Readout', 'build_readout', 'register_readout']
