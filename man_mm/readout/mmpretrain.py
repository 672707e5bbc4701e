"""MMPretrain: every classifier whose `loss` gets its features from `extract_feat`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseAveragedModel
from torch import Tensor, nn
from torch.nn import functional as F

from ..local import Auxiliary, image_channels
from ..local.names import AUXILIARIES
from .base import HostTask, Readout, register_readout, register_unserved
from .joint_run import standing_in

__all__ = ['ClassifierReadout', 'ClassifierTask', 'SelfSupervisedReadout', 'SelfSupervisedTask']

register_unserved(
    'mmpretrain.models.selfsup.base.BaseSelfSupervisor',
    reason='it is self-supervised, by a queue of features, by crops of several sizes or by targets for masked patches, '
    'for which there is no readout. SimCLR, SimSiam, BarlowTwins, BYOL, MoCoV3 and MAE are served, and the classifier '
    'that is fine-tuned from any.',
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
        """See `Readout.synthetic_target`: one of two classes.

        Raises:
            ValueError: If the model learns from several views of an image.
        """
        models = import_module('mmpretrain.models')
        kind = cfg.model.type
        cls = import_module('mmpretrain.registry').MODELS.get(kind) if isinstance(kind, str) else kind
        if isinstance(cls, type) and issubclass(cls, models.BaseSelfSupervisor) and not issubclass(cls, models.MAE):
            raise ValueError(
                f'model.type={kind!r} learns from views of an image, of which no batch without data is '
                'known: leave the size out to take one from the data set of the config.'
            )
        return import_module('mmpretrain.structures').DataSample().set_gt_label(index % 2)

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Compare channels of the images and range of the labels with what the model was built for.

        Grey images pass where the preprocessor has a mean for each of three channels: it makes three of one.

        Raises:
            ValueError: If they do not fit. On a GPU a label out of range would end in a device-side assertion.
        """
        _check_channels(self.host, inputs)
        num_classes = getattr(self.host.head, 'num_classes', None)
        if num_classes is None or 'gt_label' not in targets[0]:
            return
        bad = sorted({label for label in _labels(targets).tolist() if not 0 <= label < num_classes})
        if bad:
            raise ValueError(
                f'labels {bad} are out of range: model.head.num_classes={num_classes} knows 0 to {num_classes - 1}.'
            )


class SelfSupervisedTask(HostTask):
    """Self-supervised models: `loss` hands the images to the backbone, and what that makes to the neck, by itself."""

    extract = 'backbone.forward'
    changes_targets = False

    def neck(self, features: Any) -> Any:
        """See `Task.neck`: as they are; the model's loss calls its neck, the auxiliary's where it has its own."""
        return features

    @contextmanager
    def _private_heads(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super()._private_heads())
            if self.auxiliary.neck is not None:  # the model's own stays where others read its weights
                stack.enter_context(standing_in(self.host, 'neck.forward', self.auxiliary.neck))
            yield


class ViewsTask(SelfSupervisedTask):
    """Those whose loss runs the backbone on one view of the images, then on the other."""

    num_calls = 2

    @staticmethod
    def images_of_calls(inputs: Any, targets: Any) -> list[Tensor]:
        """See `HostTask.images_of_calls`: the first two views; upstream's losses read no more."""
        return list(inputs[:2])


@register_readout('mmpretrain.models.selfsup.simclr.SimCLR', 'mmpretrain.models.selfsup.mae.MAE')
class SelfSupervisedReadout(Readout):
    """Each module is trained by the model's own loss on views, or on masked patches, of the images."""

    task_type = SelfSupervisedTask
    scope = 'mmpretrain'
    collate = 'default_collate'

    def check(self, auxiliary: Auxiliary) -> None:
        """See `Readout.check`.

        Raises:
            ValueError: If `auxiliary` makes classes, or reads vectors of the bank beside what the neck makes.
        """
        if not auxiliary.hands_maps_on or auxiliary.reads_pooled:
            raise ValueError(
                f'{type(auxiliary).__name__}{" with bank_vectors" if auxiliary.reads_pooled else ""} is for '
                f'classification, but {type(self.host).__name__} is self-supervised: its neck reads what the backbone '
                "makes. man_mm.SLM serves it, with the config of the model's neck as auxiliary.neck."
            )
        super().check(auxiliary)

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Compare channels of the images with what the backbone was built for.

        Raises:
            ValueError: If they do not fit.
        """
        for images in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
            _check_channels(self.host, images)


@register_readout('mmpretrain.models.selfsup.simsiam.SimSiam', 'mmpretrain.models.selfsup.barlowtwins.BarlowTwins')
class ViewsReadout(SelfSupervisedReadout):
    """Two views, by one run of the backbone."""

    task_type = ViewsTask

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """See `SelfSupervisedReadout.check_batch`; also whether there are two views.

        Raises:
            ValueError: If there are not.
        """
        if not isinstance(inputs, (list, tuple)) or len(inputs) < 2:
            num = len(inputs) if isinstance(inputs, (list, tuple)) else 1
            raise ValueError(
                f'{type(self.host).__name__} learns from two views of every image, but the batch has {num}: the '
                "pipeline's MultiView makes them."
            )
        super().check_batch(inputs, targets)


@register_readout('mmpretrain.models.selfsup.byol.BYOL', 'mmpretrain.models.selfsup.mocov3.MoCoV3')
class MomentumReadout(ViewsReadout):
    """Two views, and what a momentum copy of the whole network makes of them: for every module the same target.

    The copy is averaged and run once a batch, before the first loss.
    """

    def __init__(self, host: nn.Module, num_modules: int) -> None:
        super().__init__(host, num_modules)
        copies = [(name, child) for name, child in host.named_children() if isinstance(child, BaseAveragedModel)]
        if len(copies) != 1:
            raise ValueError(f'{type(host).__name__} has {len(copies)} momentum copies of its network, not one.')
        ((self._name, self._copy),) = copies
        own = self._copy.avg_parameters  # nothing reads the copies of auxiliaries
        self._copy.avg_parameters = {name: p for name, p in own.items() if f'.{AUXILIARIES}' not in name}
        self._targets = ExitStack()

    def open_batch(self, inputs: Any, targets: Any) -> None:
        """See `Readout.open_batch`."""
        self._targets.close()
        with torch.no_grad():
            self._copy.update_parameters(nn.Sequential(self.host.backbone, self.host.neck))
            made = {id(view): self._copy(view) for view in inputs[:2]}
        run = self._copy.forward

        def target(view: Tensor) -> Any:
            return made[id(view)] if id(view) in made else run(view)

        for method, stand_in in (('update_parameters', lambda _: None), ('forward', target)):
            self._targets.enter_context(standing_in(self.host, f'{self._name}.{method}', stand_in))
        super().open_batch(inputs, targets)

    def close_batch(self) -> None:
        """See `Readout.close_batch`."""
        super().close_batch()
        self._targets.close()


def _check_channels(host: Any, images: Tensor) -> None:
    channels = image_channels(host.backbone)
    got = images.shape[-3]  # of (N, C, H, W), or (1, N, C, H, W) of models that re-identify
    if channels not in (None, got):
        raise ValueError(
            f'images have {got} channel(s), but the first convolution of the backbone reads '
            f'{channels}: load them as such (LoadImageFromFile.color_type) or set backbone.in_channels.'
        )


def _labels(targets: Any) -> Tensor:
    labels = (sample.gt_label for sample in targets)
    return torch.cat([getattr(label, 'label', label) for label in labels])  # models that re-identify wrap theirs


def _has_one_label_an_image(targets: Any) -> bool:
    return all(len(sample.gt_label) == 1 for sample in targets)
