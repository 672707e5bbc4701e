"""Maps (N, C, H, W) and tokens (N, L, C): between transformer blocks a map passes, which tells its own size."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ['to_map', 'to_tokens']


def to_tokens(x: Tensor) -> Tensor:
    """A map as tokens, row by row: of a map that `to_map` made a view, laid out as its tokens were."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """A view of tokens as a map of `size` (height, width)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))
