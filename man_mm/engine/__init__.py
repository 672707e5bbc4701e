"""What plugs into MMEngine's runner: optim wrappers and hooks."""

from .hooks import EpochSeedHook, FeatureBankHook
from .optim_wrapper import LocalAmpOptimWrapper, LocalOptimWrapper

__all__ = ['EpochSeedHook', 'FeatureBankHook', 'LocalAmpOptimWrapper', 'LocalOptimWrapper']
