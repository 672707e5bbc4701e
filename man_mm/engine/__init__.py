"""What plugs into MMEngine's runner: optim wrappers and hooks."""

from .activation_checkpoint import ActivationCheckpointHook
from .hooks import EpochSeedHook, FeatureBankHook
from .optim_wrapper import LocalAmpOptimWrapper, LocalOptimWrapper

__all__ = ['ActivationCheckpointHook', 'EpochSeedHook', 'FeatureBankHook', 'LocalAmpOptimWrapper', 'LocalOptimWrapper']
