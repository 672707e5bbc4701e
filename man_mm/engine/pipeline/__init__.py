"""Modules spread over processes: activations go forward, nothing comes back."""

from .data import whole_sampler
from .pipeline_hook import PipelineHook
from .wrapper import LocalPipeline

__all__ = ['LocalPipeline', 'PipelineHook', 'whole_sampler']
