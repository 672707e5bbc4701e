"""One small file per host library."""

from . import mmagic, mmdet, mmpose, mmpretrain, mmseg  # noqa: F401  (they register their readouts)
from .base import HostTask, Readout, build_readout, readout_of, register_readout

__all__ = ['HostTask', 'Readout', 'build_readout', 'readout_of', 'register_readout']
