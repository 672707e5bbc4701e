"""Kernels of mmcv in bfloat16, which they have not been written for."""

import functools
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ['compute_bfloat16_in_float32']

FEATURE_OPS = {
    'carafe': ('CARAFEFunction', 'CARAFENaiveFunction'),
    'deform_conv': ('DeformConv2dFunction',),
    'masked_conv': ('MaskedConv2dFunction',),
    'modulated_deform_conv': ('ModulatedDeformConv2dFunction',),
    'multi_scale_deform_attn': ('MultiScaleDeformableAttnFunction',),
    'roi_align': ('RoIAlignFunction',),
    'roi_pool': ('RoIPoolFunction',),
}
"""Return features, in bfloat16 then: callers write them into tensors of the input's precision."""

LOSSES_AND_BOXES = {
    'focal_loss': ('SigmoidFocalLossFunction', 'SoftmaxFocalLossFunction'),
    'nms': ('NMSop', 'SoftNMSop'),
}
"""Return losses and boxes, in float32 then, as torch's own losses do under autocast."""


def compute_bfloat16_in_float32(ops: ModuleType, undo: ExitStack) -> None:
    """Let those of mmcv's autograd functions that OpenMMLab's models call take bfloat16, as autocast gives it.

    mmcv (2.0 to 2.2) dispatches its kernels, on CUDA and on CPUs, over float64, float32 and float16: in bfloat16 they
    end in `"sigmoid_focal_loss_forward_cuda_kernel" not implemented for 'BFloat16'`, and so does every RetinaNet. Here
    they compute in float32 on what is bfloat16; its gradients come back in bfloat16. Nothing else changes.

    Args:
        ops: The module `mmcv.ops`.
        undo: Gets what takes it back.
    """
    for group, narrow in ((FEATURE_OPS, True), (LOSSES_AND_BOXES, False)):
        for module, names in group.items():
            functions = vars(importlib.import_module(f'{ops.__name__}.{module}'))
            for function in filter(None, map(functions.get, names)):
                _patch(function, 'forward', narrow, undo)
                _patch(function, 'backward', False, undo)  # autograd itself gives a gradient its input's precision


def _patch(function: type[torch.autograd.Function], name: str, narrow: bool, undo: ExitStack) -> None:
    own = vars(function).get(name)
    if own is not None:
        setattr(function, name, staticmethod(_in_float32(own.__func__, narrow)))
        undo.callback(setattr, function, name, own)


def _in_float32(compute: Callable[..., Any], narrow: bool) -> Callable[..., Any]:
    @functools.wraps(compute)
    def widened(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(map(_is_bfloat16, (*args, *kwargs.values()))):
            return compute(ctx, *args, **kwargs)
        output = compute(ctx, *map(_wide, args), **{key: _wide(value) for key, value in kwargs.items()})
        return output.bfloat16() if narrow else output

    return widened


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.bfloat16


def _wide(value: Any) -> Any:
    """`value` in float32 if it is in bfloat16; some functions ask what requires a gradient."""
    return value.float().requires_grad_(value.requires_grad) if _is_bfloat16(value) else value
