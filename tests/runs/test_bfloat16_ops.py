"""mmcv's kernels know no bfloat16: man_mm lets them compute it in float32."""

import importlib
from contextlib import ExitStack
from types import SimpleNamespace

import mmcv.ops
import pytest
import torch
from mmcv.ops import focal_loss
from torch.nn import functional as F

from man_mm.runs.bfloat16_ops import FEATURE_OPS, LOSSES_AND_BOXES, compute_bfloat16_in_float32
from man_mm.runs.patches import apply_patches, undo_patches

from ..helpers.detection import batch, build
from ..helpers.detectors import detector

HALF = torch.bfloat16


@pytest.fixture
def unpatched():
    undo_patches()
    yield
    apply_patches()


def features(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(HALF)


ROIS = torch.tensor([[0, 1.0, 1.0, 5.0, 6.0], [0, 0.0, 2.0, 7.0, 7.0]]).to(HALF)
MASK = features(1, 9, 8, 8).sigmoid()
OPS = {
    'roi_align': (lambda x, rois: mmcv.ops.roi_align(x, rois, (2, 2)), features(1, 2, 8, 8), ROIS),
    'deform_conv': (
        lambda x, offset, weight: mmcv.ops.deform_conv2d(x, offset, weight, 1, 1),
        features(1, 2, 8, 8), features(1, 18, 8, 8), features(3, 2, 3, 3),
    ),
    'modulated_deform_conv': (
        lambda x, offset, mask, weight: mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1),
        features(1, 2, 8, 8), features(1, 18, 8, 8), MASK, features(3, 2, 3, 3),
    ),
}  # fmt: skip


def run(name, dtype):
    """Output and gradients of an op whose inputs, values of bfloat16, are in `dtype`; those of `rois` are None."""
    op, *inputs = OPS[name]
    inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    output = op(*inputs)
    output.backward(features(*output.shape).to(output.dtype))
    return output, [x.grad for x in inputs]


@pytest.mark.parametrize('name', OPS)
def test_features_in_bfloat16_are_those_of_float32_rounded_and_so_are_gradients(name):
    output, grads = run(name, HALF)
    wide_output, wide_grads = run(name, torch.float32)
    assert output.dtype is HALF and torch.equal(output, wide_output.to(HALF))
    assert grads[0] is not None
    for grad, wide in zip(grads, wide_grads, strict=True):
        assert (grad is None) == (wide is None)
        assert grad is None or (grad.dtype is HALF and torch.equal(grad, wide.to(HALF)))


@pytest.mark.parametrize('name', OPS)
def test_upstream_has_no_kernel_for_it(name, unpatched):
    with pytest.raises(RuntimeError, match="not implemented for 'BFloat16'"):
        run(name, HALF)


@pytest.mark.parametrize('suppress', [mmcv.ops.nms, mmcv.ops.soft_nms])
def test_boxes_in_bfloat16_are_suppressed(suppress):
    boxes, scores = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 30, 30]]), torch.tensor([0.5, 0.75, 0.25])
    _, kept = suppress(boxes.to(HALF), scores.to(HALF), 0.5)
    assert kept.tolist() == suppress(boxes, scores, 0.5)[1].tolist()


def kernels(seen):
    """The two of the focal loss, as they are on CUDA: without bfloat16, results written into an argument."""

    def refuse(tensor):
        seen.append(tensor.dtype)
        if tensor.dtype is HALF:
            raise NotImplementedError('"sigmoid_focal_loss_forward_cuda_kernel" not implemented for \'BFloat16\'')

    def loss(pred, target, gamma, alpha):
        hot = F.one_hot(target, pred.shape[1]).to(pred)
        p = pred.sigmoid()
        weight = alpha * hot * (1 - p) ** gamma + (1 - alpha) * (1 - hot) * p**gamma
        return weight * F.binary_cross_entropy_with_logits(pred, hot, reduction='none')

    def forward(pred, target, weight, output, gamma, alpha):
        refuse(pred)
        output.copy_(loss(pred, target, gamma, alpha))

    def backward(pred, target, weight, grad, gamma, alpha):
        refuse(pred)
        with torch.enable_grad():
            pred = pred.detach().requires_grad_()
            grad.copy_(torch.autograd.grad(loss(pred, target, gamma, alpha).sum(), pred)[0])

    return SimpleNamespace(sigmoid_focal_loss_forward=forward, sigmoid_focal_loss_backward=backward)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, HALF])
def test_the_focal_loss_computes_bfloat16_in_float32_and_leaves_the_rest_alone(monkeypatch, dtype):
    seen = []
    monkeypatch.setattr(focal_loss, 'ext_module', kernels(seen))
    pred, target = features(4, 3).to(dtype).requires_grad_(), torch.tensor([0, 2, 1, 1])
    loss = focal_loss.sigmoid_focal_loss(pred, target, 2.0, 0.25, None, 'none')
    loss.sum().backward()
    computed = torch.float32 if dtype is HALF else dtype
    assert loss.dtype is computed and seen == [computed, computed]
    assert pred.grad.dtype is dtype and pred.grad.abs().min() > 0


def test_without_the_patch_the_focal_loss_fails(monkeypatch, unpatched):
    monkeypatch.setattr(focal_loss, 'ext_module', kernels([]))
    with pytest.raises(NotImplementedError, match='sigmoid_focal_loss'):
        focal_loss.sigmoid_focal_loss(features(4, 3), torch.tensor([0, 2, 1, 1]), 2.0, 0.25, None, 'none')


def test_a_two_stage_detector_trains_and_predicts_under_autocast():
    model = build(detector('faster_rcnn', None))
    with torch.autocast('cpu', HALF):
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch(size=128), True), mode='loss'))
        loss.backward()
        model.eval()
        predictions = model(**model.data_preprocessor(batch(size=128)), mode='predict')
    assert loss.isfinite() and len(predictions) == 2


def test_every_function_that_is_named_is_patched_and_given_back(unpatched):
    def forwards():
        return [
            getattr(importlib.import_module(f'mmcv.ops.{module}'), name).forward
            for module, names in {**FEATURE_OPS, **LOSSES_AND_BOXES}.items()
            for name in names
        ]

    before, undo = forwards(), ExitStack()
    compute_bfloat16_in_float32(mmcv.ops, undo)
    assert not set(before) & set(forwards())
    undo.close()
    assert forwards() == before
