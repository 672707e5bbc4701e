"""Parts that plug into MMEngine's runner: optim wrappers, hooks, wrappers for several processes."""

from .activation_checkpoint_hook import ActivationCheckpointHook
from .distributed import LocalDistributedDataParallel
from .feature_bank_hook import FeatureBankHook
from .optim_wrapper import LocalAmpOptimWrapper, LocalOptimWrapper
from .pipeline import LocalPipeline, PipelineHook

__all__ = [
    'ActivationCheckpointHook',
    'FeatureBankHook',
    'LocalAmpOptimWrapper',
    'LocalDistributedDataParallel',
    'LocalOptimWrapper',
    'LocalPipeline',
    'PipelineHook',
]
