"""Hardening of any run of MMEngine, by local learning or not."""

from .epoch_seed_hook import EpochSeedHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = ['EpochSeedHook', 'SafeCheckpointHook']
