"""What a unit costs to train: the bytes that autograd keeps for its backward."""

import torch
from torch import Tensor, nn

from .probe import probe
from .unroll import Unrolled

__all__ = ['activation_bytes']


def activation_bytes(net: nn.Module, unrolled: Unrolled, size: tuple[int, int]) -> list[int]:
    """Bytes saved for backward by each unit on one image of `size` (height, width in px), on the CPU; no parameters."""
    own, x = probe(net, size, 'cpu')
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
        x = output.detach().requires_grad_()  # else checkpointed blocks (with_cp) would not checkpoint
    return costs
