"""What a backbone does behind its last unit, e.g. EDSR's upsampler, on parts of the batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from .unroll import Unrolled

__all__ = ['finish_in_parts']


def finish_in_parts(unrolled: Unrolled, net: nn.Module, x: Tensor, taps: Mapping[str, Tensor], num_parts: int) -> Any:
    """Return what a backbone returns.

    Args:
        unrolled: The backbone's description.
        net: The backbone.
        x: The last unit's output, (N, ...).
        taps: All taps, (N, ...).
        num_parts: Parts of the batch that are run one after the other, and once more in backward. 1 keeps activations
            of the whole batch.
    """
    if num_parts == 1:
        return unrolled.finish(net, x, taps)

    def finish_part(part: Tensor, *part_of_taps: Tensor) -> Any:
        return unrolled.finish(net, part, dict(zip(taps, part_of_taps, strict=True)))

    parts = zip(x.chunk(num_parts), *(tap.chunk(num_parts) for tap in taps.values()), strict=True)
    results = [checkpoint(finish_part, *part, use_reentrant=False) for part in parts]
    return tree_map(lambda *pieces: torch.cat(pieces), *results)
