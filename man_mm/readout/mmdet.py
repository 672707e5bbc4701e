"""MMDetection: every detector whose `loss` gets its features from `extract_feat`."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .base import Readout, register_readout

__all__ = ['DetectorReadout']

DEEPEST = 32
"""Stride in px of the smallest map of common backbones."""


@register_readout('mmdet.models.detectors.base.BaseDetector')
class DetectorReadout(Readout):
    """Single-stage, two-stage and DETR-style detectors: `loss(inputs, data_samples)` calls `extract_feat(inputs)`."""

    extract = 'extract_feat'

    def check(self, auxiliary: Any) -> None:
        """See `Readout.check`; also whether the neck makes as many maps as the heads have priors for."""
        super().check(auxiliary)
        source, neck = 'model.neck', getattr(self.host, 'neck', None)
        if auxiliary.neck is not None:
            source, neck = 'auxiliary.neck', auxiliary.neck
        num_outs = getattr(neck, 'num_outs', None)
        for name, strides in self._strides(auxiliary):
            if num_outs not in (None, len(strides)):
                raise ValueError(
                    f'{name} has priors for {len(strides)} levels, of strides {strides} px, but '
                    f'{source}.num_outs={num_outs}: a local loss needs one map for every level.'
                )

    def loss(self, auxiliary: Any, features: Any, inputs: Any, targets: Any) -> dict[str, Any]:
        """See `Readout.loss`.

        Raises:
            ValueError: If the maps are not of the strides that the heads' priors have: a loss would be made all the
                same, of boxes in other places.
        """
        if isinstance(features, (tuple, list)) and isinstance(inputs, Tensor):
            for name, strides in self._strides(auxiliary):
                _check_strides(name, strides, inputs.shape[2], [level.shape[2] for level in features])
        return super().loss(auxiliary, features, inputs, targets)

    def _strides(self, auxiliary: Any) -> Iterator[tuple[str, list[int]]]:
        """Heads with priors, the model's or the auxiliary's, and the stride of each level in px."""
        heads = {f'model.{name}': part for name, part in self.host.named_children() if name not in auxiliary.heads}
        heads |= {f'auxiliary.head.{name}': part for name, part in auxiliary.heads.items()}
        for name, head in heads.items():
            strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
            if strides is not None:
                yield name, [stride[1] if isinstance(stride, (tuple, list)) else stride for stride in strides]


def _check_strides(name: str, strides: list[int], height: int, got: list[int]) -> None:
    """Maps of these heights, of an image of `height` px, have a cell for every stride, or a few more: one that was
    up-sampled may cover a padded image.
    """
    least = [-(-height // stride) for stride in strides]
    most = [-(-height // max(stride, DEEPEST)) * max(stride, DEEPEST) // stride for stride in strides]
    if len(got) != len(strides) or not all(a <= b <= c for a, b, c in zip(least, got, most, strict=True)):
        raise ValueError(
            f'{name} has priors of strides {strides} px, for which an image of {height} px has maps {least} high, but '
            f'those of the local loss are {got} high: neck and head do not fit, e.g. by neck.start_level.'
        )
