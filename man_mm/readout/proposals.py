"""Stand-ins for what a two-stage detector decides by its own predictions, in a step on tensors without values.

Proposals become real boxes, as many as the first stage may keep and enough of them on objects that the sampler finds
all the samples that it may take: the memory of a step is that of its worst batch. What assigns, samples and makes
targets of them is the model's own code.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

__all__ = ['given_proposals', 'proposals_of', 'without_predictions']

SMALLEST = 0.02
"""Side of the smallest box beside objects, in sides of the image."""


def proposals_of(sample: Any, num: int) -> InstanceData:
    """`num` proposals for an image, the same on every call: half of them its objects, the others strewn over it."""
    generator = torch.Generator().manual_seed(0)
    height, width = sample.metainfo['img_shape'][:2]
    truth = sample.gt_instances.bboxes
    truth = getattr(truth, 'tensor', truth).detach()
    found = truth[torch.arange(num // 2) % len(truth)] if len(truth) else truth
    sides = torch.tensor([width, height], dtype=torch.float)
    extent = SMALLEST ** torch.rand(num - len(found), 1, generator=generator) * sides
    corner = torch.rand(num - len(found), 2, generator=generator) * (sides - extent)
    bboxes = torch.cat([found, torch.cat([corner, corner + extent], dim=1).to(found)])
    return InstanceData(bboxes=bboxes, scores=bboxes.new_ones(num), labels=bboxes.new_zeros(num, dtype=torch.int64))


@contextmanager
def given_proposals() -> Iterator[None]:
    """Inside, first stages of MMDetection predict `proposals_of` their targets."""
    head = import_module('mmdet.models.dense_heads.base_dense_head').BaseDenseHead
    predict = head.loss_and_predict

    def loss_and_predict(self: Any, x: Any, batch_data_samples: Any, proposal_cfg: Any = None) -> Any:
        def predict_by_feat(*_: Any, cfg: Any, **__: Any) -> list[InstanceData]:
            return [proposals_of(sample, cfg.max_per_img) for sample in batch_data_samples]

        with mock.patch.object(self, 'predict_by_feat', predict_by_feat):
            return predict(self, x, batch_data_samples, proposal_cfg)

    with mock.patch.object(head, 'loss_and_predict', loss_and_predict):
        yield


@contextmanager
def without_predictions(mode: FakeTensorMode) -> Iterator[None]:
    """Inside, two-stage detectors of MMDetection train on the fake tensors of `mode`."""
    align = import_module('mmcv.ops.roi_align')
    masks = import_module('mmdet.structures.mask').BitmapMasks
    with ExitStack() as stack:
        stack.enter_context(given_proposals())
        stack.enter_context(_RealMasks())
        for name in ('roi_align_forward', 'roi_align_backward'):
            stack.enter_context(mock.patch.object(align.ext_module, name, _idle(getattr(align.ext_module, name))))
        stack.enter_context(mock.patch.object(masks, 'crop_and_resize', _cropping(mode)))
        yield


def _idle(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function that fills tensors which it is given, without them where they are fake."""

    def inside(first: Tensor, *args: Any, **kwargs: Any) -> None:
        if not isinstance(first, FakeTensor):
            function(first, *args, **kwargs)

    return inside


def _cropping(mode: FakeTensorMode) -> Callable[..., Any]:
    """A crop of masks that holds what upstream's holds, a whole map for every sample, and gives empty masks."""

    def crop_and_resize(self: Any, bboxes: Any, out_shape: Any, inds: Any, *_: Any, **__: Any) -> Any:
        with mode:
            chosen = torch.empty(len(bboxes), self.height, self.width, dtype=torch.uint8)
            chosen.float()
        return type(self)(np.zeros((len(bboxes), *out_shape), dtype=self.masks.dtype), *out_shape)

    return crop_and_resize


class _RealMasks(TorchFunctionMode):
    """Chooses of fake tensors by real masks: the number of what is chosen is known."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and isinstance(args[0], FakeTensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(place for part in index for place in _places(part)))
        return func(*args, **(kwargs or {}))


def _places(index: Any) -> tuple[Any, ...]:
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero(as_tuple=True) if is_mask else (index,)
