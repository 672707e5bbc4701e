"""MMDetection: every detector whose `loss` gets its features from `extract_feat`."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from ..local import Auxiliary, LocalBackbone, evaluating
from .base import HostTask, Readout, register_readout, register_unserved
from .necks import passed_over
from .once_a_batch import OnceABatch
from .proposals import without_predictions

__all__ = ['DetectorReadout', 'DetectorTask']

register_unserved(
    'mmdet.models.detectors.semi_base.SemiBaseDetector',
    reason='it is semi-supervised, by the predictions of a second detector, its teacher. The detector that it has '
    'twice is served by itself.',
)
register_unserved(
    'mmdet.models.mot.base.BaseMOTModel',
    reason='it is a tracker of a kind for which there is no readout. Its detector is served by itself.',
)

EXTRACTORS = {f'mmdet.models.detectors.{name}' for name in ('base_detr', 'single_stage', 'two_stage')}
"""Files of upstream's detectors whose `extract_feat` is a backbone and a neck, and no more."""

DEEPEST = 32
"""Stride in px of the smallest map of common backbones."""

BOXES = 7
"""Objects of a synthetic image; COCO has 7.3 on average."""


class DetectorTask(HostTask):
    """Single-stage, two-stage and DETR-style detectors: `loss(inputs, data_samples)` calls `extract_feat(inputs)`."""

    def loss(self, features: Any) -> dict[str, Any]:
        """See `Task.loss`.

        Raises:
            ValueError: If the maps are neither of the strides that the heads' priors have nor of the sizes that the
                model itself makes of these images: a loss would be made all the same, of boxes in other places.
        """
        if isinstance(features, (tuple, list)) and isinstance(self.inputs, Tensor):
            height, heights = self.inputs.shape[-2], [level.shape[2] for level in features]
            for name, strides in _strides(self.holder, self.auxiliary):
                if not _fit(strides, height, heights):
                    self._compare(name, strides, heights)
        return super().loss(features)

    def _compare(self, name: str, strides: list[float], heights: list[int]) -> None:
        """Hold the heights of maps against those of the model's own: some backbones drop a border that others pad."""
        images = self.images_of_calls(self.inputs, self.targets)[0]
        shape = tuple(images.shape)
        known = _OWN_MAPS.setdefault(self.holder, {})
        if shape not in known:
            with evaluating(self.holder):
                known[shape] = [level.shape[2] for level in type(self.holder).extract_feat(self.holder, images)]
        if heights != known[shape]:
            raise ValueError(
                f'{name} has priors of strides {strides} px, and of an image of {shape[2]} px the model makes maps '
                f'{known[shape]} high, but those of the local loss are {heights} high: neck and head do not fit, e.g. '
                'by neck.start_level.'
            )


_OWN_MAPS: 'WeakKeyDictionary[nn.Module, dict[tuple[int, ...], list[int]]]' = WeakKeyDictionary()
"""Heights of the maps that a model makes of a batch of a shape; asked for where strides tell others."""


class FramesTask(DetectorTask):
    """Trackers that learn from a key frame and a reference frame: their loss extracts features of one, then of the
    other, and joins them.
    """

    num_calls = 2

    @staticmethod
    def images_of_calls(inputs: Any, targets: Any) -> list[Tensor]:
        """See `HostTask.images_of_calls`: all key frames, then all reference frames, of `inputs` (N, 2, C, H, W)."""
        frames = [[sample.key_frames_inds[0], sample.ref_frames_inds[0]] for sample in targets]
        return [inputs[range(len(inputs)), indices].contiguous() for indices in zip(*frames, strict=True)]


class VideoTask(DetectorTask):
    """Trackers that look at all frames (N, T, C, H, W) as one batch, and hand it to their backbone themselves."""

    extract = 'backbone.forward'


@register_readout(
    'mmdet.models.detectors.base.BaseDetector',
    'mmdet.models.mot.bytetrack.ByteTrack',  # train their detector on images
    'mmdet.models.mot.ocsort.OCSORT',
)
class DetectorReadout(Readout):
    """Checks that necks make the maps that heads have priors for; assigns the targets of a batch once."""

    task_type = DetectorTask
    scope = 'mmdet'

    def __init__(self, host: nn.Module, num_modules: int) -> None:
        super().__init__(host, num_modules)
        self.once_a_batch = OnceABatch(host)

    def open_batch(self, inputs: Any, targets: Any) -> None:
        """See `Readout.open_batch`."""
        super().open_batch(inputs, targets)
        self.once_a_batch.open(targets)

    def close_batch(self) -> None:
        """See `Readout.close_batch`."""
        self.once_a_batch.close()
        super().close_batch()

    def unread_taps(self, backbone: LocalBackbone) -> frozenset[str]:
        """See `Readout.unread_taps`: what all necks pass over, e.g. by their `start_level`, and nothing else reads."""
        neck = getattr(self.holder, 'neck', None)
        to_necks = all(auxiliary.hands_maps_on for auxiliary in backbone.auxiliaries)
        if neck is None or not to_necks or type(self.holder).extract_feat.__module__ not in EXTRACTORS:
            return frozenset()
        return passed_over(neck, backbone)

    @staticmethod
    def synthetic_target(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
        """See `Readout.synthetic_target`: boxes of a tenth to a half of the image's sides, all of the first class.

        Raises:
            ValueError: If it is a tracker that learns from several frames.
        """
        if 'track_head' in cfg.model:
            raise ValueError(
                f'model.type={cfg.model.type!r} learns from videos, of which no batch without data is known: leave the '
                'size out to take one from the data set of the config.'
            )
        sample = import_module('mmdet.structures').DetDataSample(
            metainfo=dict(img_id=index, img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
        )
        sides = torch.tensor([size[1], size[0]])
        extent = (0.1 + 0.4 * torch.rand(BOXES, 2, generator=generator)) * sides
        corner = torch.rand(BOXES, 2, generator=generator) * (sides - extent)
        bboxes, labels = torch.cat([corner, corner + extent], dim=1), torch.zeros(BOXES, dtype=torch.int64)
        sample.gt_instances = InstanceData(bboxes=bboxes, labels=labels)
        if _reads_masks(cfg.model):
            sample.gt_instances.masks = _filled(bboxes, size)
        sample.ignored_instances = InstanceData(bboxes=bboxes[:0], labels=labels[:0])
        return sample

    @staticmethod
    def cuda_branches() -> AbstractContextManager[None]:
        """See `Readout.cuda_branches`: the compiled focal loss and deformable attention, idle here."""
        return _cuda_branches()

    @staticmethod
    def without_predictions(mode: Any) -> AbstractContextManager[None]:
        """See `Readout.without_predictions`: proposals, and masks of objects."""
        return without_predictions(mode)

    def check(self, auxiliary: Auxiliary) -> None:
        """See `Readout.check`; also whether the neck makes as many maps as the heads have priors for."""
        super().check(auxiliary)
        source, neck = 'model.neck', getattr(self.holder, 'neck', None)
        if auxiliary.neck is not None:
            source, neck = 'auxiliary.neck', auxiliary.neck
        num_outs = getattr(neck, 'num_outs', None)
        for name, strides in _strides(self.holder, auxiliary):
            if num_outs not in (None, len(strides)):
                raise ValueError(
                    f'{name} has priors for {len(strides)} levels, of strides {strides} px, but '
                    f'{source}.num_outs={num_outs}: a local loss needs one map for every level.'
                )


@register_readout('mmdet.models.mot.qdtrack.QDTrack', 'mmdet.models.vis.masktrack_rcnn.MaskTrackRCNN')
class FramesReadout(DetectorReadout):
    """Trackers that learn from pairs of frames."""

    task_type = FramesTask


@register_readout('mmdet.models.vis.mask2former_vis.Mask2FormerVideo')
class VideoReadout(DetectorReadout):
    """Trackers whose loss runs their backbone on whole videos; they have no neck."""

    task_type = VideoTask


def _reads_masks(model: Any) -> bool:
    """Whether the config of a model or of a part of it has a head for masks of objects."""
    parts = [part for part in model.values() if isinstance(part, dict)]
    return 'mask_head' in model or any(_reads_masks(part) for part in parts)


def _filled(bboxes: Tensor, size: tuple[int, int]) -> Any:
    """Masks of objects that fill their boxes."""
    masks = np.zeros((len(bboxes), *size), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, bboxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return import_module('mmdet.structures.mask').BitmapMasks(masks, *size)


def _strides(host: Any, auxiliary: Auxiliary) -> Iterator[tuple[str, list[float]]]:
    """Heads with priors, the model's or the auxiliary's, and the stride of each level in px.

    A mask head's priors are no levels of the pyramid: CondInst's are the coordinates of its one map of masks.
    """
    mask_head = import_module('mmdet.models.dense_heads.base_mask_head').BaseMaskHead
    heads = {f'model.{name}': part for name, part in host.named_children() if name not in auxiliary.heads}
    heads |= {f'auxiliary.head.{name}': part for name, part in auxiliary.heads.items()}
    for name, head in heads.items():
        strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
        if strides is not None and not isinstance(head, mask_head):
            yield name, [stride[1] if isinstance(stride, (tuple, list)) else stride for stride in strides]


def _fit(strides: list[float], height: int, got: list[int]) -> bool:
    """Whether maps of these heights, of an image of `height` px, have a cell for every stride, or a few more: one that
    was up-sampled may cover a padded image.
    """
    slack = 1e-6  # YOLACT's strides are no whole numbers: 550 px by 550 / 69 px
    least = [math.ceil(height / stride - slack) for stride in strides]
    padded = [math.ceil(height / deep - slack) * deep for deep in (max(stride, DEEPEST) for stride in strides)]
    most = [int(size / stride + slack) for size, stride in zip(padded, strides, strict=True)]
    return len(got) == len(strides) and all(a <= b <= c for a, b, c in zip(least, got, most, strict=True))


@contextmanager
def _cuda_branches() -> Iterator[None]:
    """Let MMDetection's focal loss and MMCV's deformable attention choose what is compiled for CUDA, idle here.

    They do so when they are recomputed in backward, too.
    """
    attention = import_module('mmcv.ops.multi_scale_deform_attn')
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(attention.ext_module, **_IDLE))
        stack.enter_context(mock.patch.object(attention, 'IS_CUDA_AVAILABLE', True))
        for cls in (import_module('mmdet.models.losses').FocalLoss, attention.MultiScaleDeformableAttention):
            stack.enter_context(mock.patch.object(cls, 'forward', _on_cuda(cls.forward)))
        yield


def _on_cuda(forward: Callable[..., Any]) -> Callable[..., Any]:
    def inside(*args: Any, **kwargs: Any) -> Any:
        with mock.patch('torch.cuda.is_available', lambda: True), _CudaFakes():
            return forward(*args, **kwargs)

    return inside


def _attended(value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, *_: Any, **__: Any) -> Tensor:
    """A result of deformable attention: (batch, queries, heads * channels)."""
    return value.new_empty(*places.shape[:2], value.shape[2] * value.shape[3])


_IDLE: dict[str, Any] = {
    'ms_deform_attn_forward': _attended,
    **dict.fromkeys(
        ('ms_deform_attn_backward', 'sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'), lambda *_, **__: None
    ),
}
"""Stand-ins for compiled functions of MMCV."""


class _CudaFakes(TorchFunctionMode):
    """Fake tensors say that they are on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.is_cuda.__get__ and isinstance(args[0], FakeTensor):  # type: ignore[attr-defined]
            return True
        return func(*args, **(kwargs or {}))
