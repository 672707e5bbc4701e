"""One small file per host library."""

from . import mmagic, mmdet, mmpose, mmpretrain, mmseg  # noqa: F401  (they register their readouts)
from .base import Readout, build_readout, register_readout

__all__ = ['Readout', 'build_readout', 'register_readout']
