"""MMDetection: every detector whose `loss` gets its features from `extract_feat`."""

from typing import Any

from .base import Readout, register_readout

__all__ = ['DetectorReadout']


@register_readout('mmdet.models.detectors.base.BaseDetector')
class DetectorReadout(Readout):
    """Single-stage, two-stage and DETR-style detectors: `loss(inputs, data_samples)` calls `extract_feat(inputs)`."""

    extract = 'extract_feat'

    def check(self, auxiliary: Any) -> None:
        """See `Readout.check`; also whether neck and heads of an auxiliary agree on the number of levels."""
        super().check(auxiliary)
        source, neck = 'model.neck', getattr(self.host, 'neck', None)
        if auxiliary.neck is not None:
            source, neck = 'auxiliary.neck', auxiliary.neck
        num_outs = getattr(neck, 'num_outs', None)
        heads = {f'model.{name}': part for name, part in self.host.named_children() if name not in auxiliary.heads}
        heads |= {f'auxiliary.head.{name}': part for name, part in auxiliary.heads.items()}
        for name, head in heads.items():
            strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
            if strides is not None and num_outs not in (None, len(strides)):
                raise ValueError(
                    f'{name} has priors for {len(strides)} levels, of strides {[s[0] for s in strides]} px, but '
                    f'{source}.num_outs={num_outs}: a local loss needs one map for every level.'
                )
