"""A backbone that is looked at, not trained: shapes and bytes of its units, evaluation mode for a moment."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from .unroll import Activation, Unrolled, detached

__all__ = ['Shape', 'activation_bytes', 'evaluating', 'image_channels', 'unit_shapes']

Shape = tuple[Any, ...]
"""Shape of a unit's output for one image: (C, H, W), or (L, C) for L tokens, or a tuple of such shapes."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has its own mode again, frozen norms too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def image_channels(net: nn.Module) -> int | None:
    """Channels of the images that `net` reads: those of its first convolution; None where it has none."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def unit_shapes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[Shape]:
    """Shape of every unit's output, without the batch, for an image of `size` (height, width in px)."""
    try:
        return _shapes(*_copy_and_image(net, size, 'meta'), unrolled)
    except RuntimeError:  # compiled operators, e.g. mmcv's deformable convolution, may know no device without data
        return _shapes(*_copy_and_image(net, size, 'cpu'), unrolled)


def _shapes(net: nn.Module, x: Activation, unrolled: Unrolled) -> list[Shape]:
    shapes = []
    with torch.no_grad():
        for unit in unrolled.units:
            x = unit(net, x)
            shapes.append(_shape(x))
    return shapes


def _shape(x: Activation) -> Shape:
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else tuple(map(_shape, x))


def activation_bytes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[int]:
    """Bytes that autograd keeps of each unit for its backward, on one image of `size` (height, width in px), on the
    CPU. Parameters and buffers do not count.
    """
    own, image = _copy_and_image(net, size, 'cpu')
    x: Activation = image
    known = {p.untyped_storage()._cdata for p in (*own.parameters(), *own.buffers())}
    costs = []
    for unit in unrolled.units:
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = unit(own, x)
        costs.append(sum(saved.values()))
        x = detached(output, requires_grad=True)  # else checkpointed blocks (with_cp) would not checkpoint
    return costs


def _copy_and_image(net: nn.Module, size: tuple[int, int], device: str) -> tuple[nn.Module, Tensor]:
    """A copy of `net` on `device`, in eval mode so that no running statistics change, and a black image of `size`.

    On `meta` it computes shapes alone, in no time and no memory.
    """
    own = copy.deepcopy(net)
    for module in own.modules():  # not by `own.to()`, which cannot exchange fake tensors
        for tensors in cast(tuple[dict[str, Any], ...], (module._parameters, module._buffers)):
            tensors.update({name: _moved(tensor, device) for name, tensor in tensors.items() if tensor is not None})
    own.eval()  # on a line of its own: the ResNets of mmdet return None here
    return own, torch.zeros(1, image_channels(net) or 3, *size, device=device)


def _moved(tensor: Tensor, device: str) -> Tensor:
    moved = tensor.detach().to(device).requires_grad_(tensor.requires_grad)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
