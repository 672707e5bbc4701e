"""MMPretrain: every classifier whose `loss` gets its features from `extract_feat`."""

from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor
from torch.nn import functional as F

from ..local import image_channels
from .base import HostTask, Readout, register_readout, register_unserved

__all__ = ['ClassifierReadout', 'ClassifierTask']

register_unserved(
    'mmpretrain.models.selfsup.base.BaseSelfSupervisor',
    reason='it is self-supervised, by a loss on several views or on masked patches of its images, for which there is '
    'no readout. The classifier that is fine-tuned from it is served.',
)
register_unserved(
    'mmpretrain.models.retrievers.base.BaseRetriever',
    reason='it is a retriever, whose network, image_encoder, has a backbone among its parts. A classifier of '
    'that backbone is served.',
)


class ClassifierTask(HostTask):
    """Classifiers: `loss(inputs, data_samples)` calls `extract_feat(inputs)`, which ends with the neck."""

    changes_targets = False  # heads read labels; copies of a thousand images' would take longer than a module

    def scores(self) -> Tensor:
        """See `Task.scores`: `gt_label` of the data samples, or `gt_score` where a batch augmentation set it."""
        if 'gt_score' in self.targets[0]:
            return torch.stack([sample.gt_score for sample in self.targets])
        if 'gt_label' not in self.targets[0]:  # one of several tasks has it
            raise self._no_classes()
        num_classes = self.host.head.num_classes
        if _has_one_label_an_image(self.targets):
            return F.one_hot(_labels(self.targets), num_classes).float()
        return torch.stack([F.one_hot(sample.gt_label, num_classes).sum(0) for sample in self.targets]).float()

    def labels(self) -> Tensor:
        """See `Task.labels`."""
        sample = self.targets[0]
        if 'gt_score' not in sample and 'gt_label' in sample and _has_one_label_an_image(self.targets):
            return _labels(self.targets)
        scores = self.scores()
        if not bool((scores.amax(1) == scores.sum(1)).all()):
            raise ValueError(
                'this auxiliary needs one class an image, but images have several: by their labels, or since a batch '
                'augmentation (model.train_cfg.augments: Mixup, CutMix, ...) mixes them.'
            )
        return scores.argmax(1)


@register_readout('mmpretrain.models.classifiers.base.BaseClassifier')
class ClassifierReadout(Readout):
    """Checks that images and labels are those that the model was built for."""

    task_type = ClassifierTask
    scope = 'mmpretrain'
    collate = 'default_collate'

    @staticmethod
    def synthetic_target(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
        """See `Readout.synthetic_target`: one of two classes."""
        return import_module('mmpretrain.structures').DataSample().set_gt_label(index % 2)

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Compare channels of the images and range of the labels with what the model was built for.

        Grey images pass where the preprocessor has a mean for each of three channels: it makes three of one.

        Raises:
            ValueError: If they do not fit. On a GPU a label out of range would end in a device-side assertion.
        """
        channels = image_channels(self.host.backbone)
        got = inputs.shape[-3]  # of (N, C, H, W), or (1, N, C, H, W) of models that re-identify
        if channels not in (None, got):
            raise ValueError(
                f'images have {got} channel(s), but the first convolution of the backbone reads '
                f'{channels}: load them as such (LoadImageFromFile.color_type) or set backbone.in_channels.'
            )
        num_classes = getattr(self.host.head, 'num_classes', None)
        if num_classes is None or 'gt_label' not in targets[0]:
            return
        bad = sorted({label for label in _labels(targets).tolist() if not 0 <= label < num_classes})
        if bad:
            raise ValueError(
                f'labels {bad} are out of range: model.head.num_classes={num_classes} knows 0 to {num_classes - 1}.'
            )


def _labels(targets: Any) -> Tensor:
    labels = (sample.gt_label for sample in targets)
    return torch.cat([getattr(label, 'label', label) for label in labels])  # models that re-identify wrap theirs


def _has_one_label_an_image(targets: Any) -> bool:
    return all(len(sample.gt_label) == 1 for sample in targets)
