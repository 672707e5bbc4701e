"""MMDetection: every detector whose `loss` gets its features from `extract_feat`."""

from .base import Readout, register_readout

__all__ = ['DetectorReadout']


@register_readout('mmdet.models.detectors.base.BaseDetector')
class DetectorReadout(Readout):
    """Single-stage, two-stage and DETR-style detectors: `loss(inputs, data_samples)` calls `extract_feat(inputs)`."""

    extract = 'extract_feat'
