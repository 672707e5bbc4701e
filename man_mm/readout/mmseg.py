"""MMSegmentation: every segmentor whose `loss` gets its features from `extract_feat`."""

from .base import Readout, register_readout

__all__ = ['SegmentorReadout']


@register_readout('mmseg.models.segmentors.base.BaseSegmentor')
class SegmentorReadout(Readout):
    """Encoder-decoders: `loss(inputs, data_samples)` calls `extract_feat(inputs)`, which ends with the neck."""

    scope = 'mmseg'
