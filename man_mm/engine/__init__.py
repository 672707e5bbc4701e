"""What plugs into MMEngine's runner: optim wrappers, hooks, wrappers for several processes."""

from .activation_checkpoint import ActivationCheckpointHook
from .distributed import LocalDistributedDataParallel
from .hooks import FeatureBankHook
from .optim_wrapper import LocalAmpOptimWrapper, LocalOptimWrapper
from .pipeline import LocalPipeline, PipelineHook
from .saving import SafeCheckpointHook
from .seed import EpochSeedHook

__all__ = [
    'ActivationCheckpointHook',
    'EpochSeedHook',
    'FeatureBankHook',
    'LocalAmpOptimWrapper',
    'LocalDistributedDataParallel',
    'LocalOptimWrapper',
    'LocalPipeline',
    'PipelineHook',
    'SafeCheckpointHook',
]
