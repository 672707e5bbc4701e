"""mmcv's compiled operators in bfloat16, which man_mm lets compute in float32, against float32 on the same values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from checks import Skip
from mmcv.ops import (
    DeformConv2d,
    ModulatedDeformConv2d,
    RoIAlign,
    batched_nms,
    nms,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

__all__ = ['OPS']

CLOSE = 1e-2
"""Relative error that a rounding to bfloat16 is allowed."""


def _compare(function: Callable[..., Tensor], differentiable: Sequence[Tensor], *others: Any) -> dict[str, Any]:
    """Output and gradients of `function(*differentiable, *others)` in bfloat16 and in float32."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [tensor.bfloat16().to(dtype).requires_grad_() for tensor in differentiable]
        output = function(*inputs, *others)
        output.float().square().sum().backward()
        found.append((output, *(tensor.grad for tensor in inputs)))
    errors = [
        float((ours.double() - own.double()).norm() / own.double().norm()) for own, ours in zip(*found, strict=True)
    ]
    return dict(ok=max(errors) < CLOSE, dtype=str(found[1][0].dtype), error=errors[0], gradient_errors=errors[1:])


def _needs_cuda(device: str) -> None:
    if device == 'cpu':
        raise Skip('has no CPU')


def _focal(function: Callable[..., Tensor], device: str) -> dict[str, Any]:
    _needs_cuda(device)
    torch.manual_seed(0)
    logits, labels = torch.randn(4000, 80, device=device), torch.randint(0, 80, (4000,), device=device)
    return _compare(lambda x: function(x, labels, 2.0, 0.25, None, 'sum'), [logits])


def _nms(device: str) -> dict[str, Any]:
    """Boxes at whole pixels, so that they are the same in bfloat16."""
    torch.manual_seed(0)
    corner = torch.randint(0, 128, (1000, 2), device=device).float()
    boxes = torch.cat([corner, corner + torch.randint(8, 64, (1000, 2), device=device)], 1).bfloat16()
    scores, classes = torch.rand(1000, device=device).bfloat16(), torch.randint(0, 5, (1000,), device=device)
    found = {}
    for name, kept in (
        ('nms', [nms(boxes.to(dtype), scores.to(dtype), 0.5)[1] for dtype in (torch.float32, torch.bfloat16)]),
        (
            'batched',
            [
                batched_nms(boxes.to(dtype), scores.to(dtype), classes, dict(type='nms', iou_threshold=0.5))[1]
                for dtype in (torch.float32, torch.bfloat16)
            ],
        ),
    ):
        found[name] = len(kept[0]), torch.equal(*kept)
    return dict(ok=found['nms'][1], **found)  # batched_nms shifts boxes by class in their own precision


def _deform(device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    layer = DeformConv2d(8, 8, 3, padding=1).to(device)
    x, offset = torch.randn(2, 8, 24, 24, device=device), torch.randn(2, 18, 24, 24, device=device)
    return _compare(lambda x, offset: layer.to(x.dtype)(x, offset), [x, offset])


def _modulated(device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(8, 8, 3, padding=1).to(device)
    x, offset = torch.randn(2, 8, 24, 24, device=device), torch.randn(2, 18, 24, 24, device=device)
    mask = torch.rand(2, 9, 24, 24, device=device)
    return _compare(lambda x, offset, mask: layer.to(x.dtype)(x, offset, mask), [x, offset, mask])


def _roi_align(device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    rois = torch.tensor([[0, 2.0, 3.0, 18.0, 20.0], [1, 0.0, 0.0, 11.0, 23.0]], device=device)
    layer = RoIAlign(7, 1.0, 2)
    return _compare(lambda x: layer(x, rois.to(x.dtype)), [torch.randn(2, 8, 24, 24, device=device)])


def _attention(device: str) -> dict[str, Any]:
    _needs_cuda(device)
    torch.manual_seed(0)
    shapes = torch.tensor([[8, 8], [4, 4]], device=device)
    starts = torch.tensor([0, 64], device=device)
    value, points = torch.randn(2, 80, 4, 8, device=device), torch.rand(2, 10, 4, 2, 4, 2, device=device)
    weights = torch.rand(2, 10, 4, 2, 4, device=device)

    def attend(value: Tensor, weights: Tensor) -> Tensor:
        return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, points.to(value.dtype), weights, 64)

    return _compare(attend, [value, weights])


OPS: dict[str, Callable[[str], dict[str, Any]]] = {
    'nms': _nms,
    'sigmoid focal loss': lambda device: _focal(sigmoid_focal_loss, device),
    'softmax focal loss': lambda device: _focal(softmax_focal_loss, device),
    'deform conv': _deform,
    'modulated deform conv': _modulated,
    'roi align': _roi_align,
    'deformable attention': _attention,
}
