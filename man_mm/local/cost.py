"""What a unit costs to train: the bytes that autograd keeps for its backward."""

import copy

import torch
from torch import Tensor, nn

from .unroll import Unrolled

__all__ = ['activation_bytes']


def activation_bytes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[int]:
    """Bytes saved for backward by each unit on one RGB image of `size` (height, width in px); parameters not counted.

    Runs a copy of `net` on the CPU in eval mode, so that no running statistics change.
    """
    probe = copy.deepcopy(net).cpu()
    probe.eval()  # on a line of its own: the ResNets of mmdet return None here
    known = {p.untyped_storage().data_ptr() for p in (*probe.parameters(), *probe.buffers())}
    x = torch.zeros(1, 3, *size)
    costs = []
    for unit in unrolled.units:
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = unit(probe, x)
        costs.append(sum(saved.values()))
        x = output.detach().requires_grad_()  # else checkpointed blocks (with_cp) would not checkpoint
    return costs
