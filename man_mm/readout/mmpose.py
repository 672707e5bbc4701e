"""MMPose: every estimator whose `loss` gets its features from `extract_feat`."""

from .base import Readout, register_readout

__all__ = ['PoseReadout']


@register_readout('mmpose.models.pose_estimators.base.BasePoseEstimator')
class PoseReadout(Readout):
    """Estimators of heatmaps or coordinates: `loss(inputs, data_samples)` calls `extract_feat(inputs)`."""

    scope = 'mmpose'
