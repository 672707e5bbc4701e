"""What a backbone is run on where nothing but its shapes or its costs are asked."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ['image_channels', 'probe']


def image_channels(net: nn.Module) -> int | None:
    """Channels of the images that `net` reads: those of its first convolution; None where it has none."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def probe(net: nn.Module, size: tuple[int, int], device: str) -> tuple[nn.Module, Tensor]:
    """A copy of `net` on `device`, in eval mode so that no running statistics change, and a black image of `size`.

    Args:
        net: A backbone.
        size: Height and width of the image in px.
        device: `meta` for shapes alone: no arithmetic, no memory.
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
