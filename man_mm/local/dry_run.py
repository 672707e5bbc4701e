"""A backbone that is looked at, not trained: shapes and bytes of its units, evaluation mode for a moment."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .units import Activation, Unrolled, detached

__all__ = [
    'Shape',
    'activation_bytes',
    'copied_to',
    'copy_and_image',
    'evaluating',
    'image_channels',
    'image_size',
    'in_mode',
    'unit_shapes',
]

Shape = tuple[Any, ...]
"""Shape of a unit's output for one image: (C, H, W), or (L, C) for L tokens, or a tuple of such shapes."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; see `in_mode`."""
    with in_mode(model, False), torch.no_grad():
        yield


@contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation; afterwards every layer has its own mode again, frozen norms too."""
    modes = {layer: layer.training for layer in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def image_size(img_size: Any) -> tuple[int, int] | None:
    """Height and width in px of what a backbone's config or attribute calls `img_size`; None where it says nothing."""
    if isinstance(img_size, int):
        return img_size, img_size
    return (img_size[0], img_size[-1]) if isinstance(img_size, (tuple, list)) and img_size else None


_CHANNELS: 'WeakKeyDictionary[nn.Module, int | None]' = WeakKeyDictionary()


def image_channels(net: nn.Module) -> int | None:
    """Channels of the images that `net` reads: those of its first convolution; None where it has none."""
    if net not in _CHANNELS:  # asked for with every batch
        _CHANNELS[net] = _found_channels(net)
    return _CHANNELS[net]


def _found_channels(net: nn.Module) -> int | None:
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels == 3 or not _takes_colours(net):
        return None if first is None else first.in_channels
    return 3  # YOLOX's stem folds neighbouring pixels into channels before it


def _takes_colours(net: nn.Module) -> bool:
    own = copied_to(net, 'meta')
    try:
        with torch.no_grad():
            own(torch.zeros(1, 3, 64, 64, device='meta'))
    except Exception:  # of any kind: it was made for other images
        return False
    return True


def unit_shapes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[Shape]:
    """Shape of every unit's output, without the batch, for an image of `size` (height, width in px)."""
    try:
        return _shapes(*copy_and_image(net, size, 'meta'), unrolled)
    except RuntimeError:  # compiled operators, e.g. mmcv's deformable convolution, may know no device without data
        return _shapes(*copy_and_image(net, size, 'cpu'), unrolled)


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
    own, image = copy_and_image(net, size, 'cpu')
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


def copy_and_image(net: nn.Module, size: tuple[int, int], device: str) -> tuple[nn.Module, Tensor]:
    """A copy of `net` on `device`, see `copied_to`, and a black image of `size` (height, width in px)."""
    return copied_to(net, device), torch.zeros(1, image_channels(net) or 3, *size, device=device)


def copied_to(net: nn.Module, device: str) -> nn.Module:
    """A copy of `net` on `device`, in eval mode so that no running statistics change.

    On `meta` it computes shapes alone, in no memory and little time: norms and ReLU6, which torch decomposes there in
    Python, milliseconds each, are left out.
    """
    tensors = (*net.parameters(), *net.buffers())
    own = copy.deepcopy(net, {id(tensor): _moved(tensor, device) for tensor in tensors})
    own.eval()  # on a line of its own: the ResNets of mmdet return None here
    if device == 'meta':
        for layer in own.modules():
            if type(layer).forward in _SAME_SHAPE:
                layer.forward = _SAME_SHAPE[type(layer).forward]
    return own


_SAME_SHAPE: dict[Callable[..., Any], Callable[..., Any]] = {
    nn.BatchNorm2d.forward: torch.empty_like,
    nn.SyncBatchNorm.forward: torch.empty_like,
    nn.GroupNorm.forward: torch.empty_like,
    nn.LayerNorm.forward: partial(torch.empty_like, memory_format=torch.contiguous_format),
    nn.ReLU6.forward: torch.empty_like,
}
"""The forward of layers that `copied_to` leaves out, and what makes a tensor of the same shape and layout."""


def _moved(tensor: Tensor, device: str) -> Tensor:
    moved = tensor.detach().to(device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, tensor.requires_grad)
    return moved.clone()  # a layer may write to it
