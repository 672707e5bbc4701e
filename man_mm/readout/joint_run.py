"""JointRun: a loss that extracts features of several frames or views, and one run of the backbone on all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ['JointRun', 'in_parts', 'standing_in']


def in_parts(features: Any, num: int) -> list[Any]:
    """`features` of a batch, tensors at any depth, cut along it into `num` equal parts."""
    if num == 1:
        return [features]
    tensors, kind = tree_flatten(features)
    return [tree_unflatten(list(part), kind) for part in zip(*(tensor.chunk(num) for tensor in tensors), strict=True)]


@contextmanager
def standing_in(holder: nn.Module, path: str, call: Callable[..., Any]) -> Iterator[None]:
    """Inside, `call` takes the place of the method at `path` below `holder`, e.g. `backbone.forward`."""
    owner, _, name = path.rpartition('.')
    attributes = vars(holder.get_submodule(owner))
    before = attributes.get(name)
    attributes[name] = call
    try:
        yield
    finally:
        attributes.pop(name, None)
        if before is not None:
            attributes[name] = before


class JointRun:
    """Until `close`, the first call of a method runs it on the images of all calls; each call is given its part.

    So every module sees all frames or views of a step at once, and is trained by a loss that joins them. Norms over the
    batch see them together, too.

    Args:
        holder: The model, or its part that has the backbone.
        path: Its method, from `holder`, e.g. `extract_feat`.
        images: What each call gets, in order, all (N, C, H, W).

    Raises:
        ValueError: If a call gets images of another shape. Calls after the last one are runs of their own.
    """

    def __init__(self, holder: nn.Module, path: str, images: Sequence[Tensor]) -> None:
        owner, _, name = path.rpartition('.')
        self._extract: Callable[..., Any] = getattr(holder.get_submodule(owner), name)
        self._images = images
        self._parts: list[Any] = []
        self._num_calls = 0
        self._open = ExitStack()
        self._open.enter_context(standing_in(holder, path, self._call))

    def close(self) -> None:
        """Put the method back."""
        self._open.close()
        self._parts = []

    def _call(self, images: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return self._extract(images)
        if not self._parts:
            self._parts = in_parts(self._extract(torch.cat(list(self._images))), len(self._images))
        call, self._num_calls = self._num_calls, self._num_calls + 1
        if call >= len(self._images):  # a local loss has refused a model that calls more often
            return self._extract(images)
        if images.shape != self._images[call].shape:
            known = [tuple(image.shape) for image in self._images]
            raise ValueError(
                f'call {call + 1} of the backbone in a loss is on images {tuple(images.shape)}, but the calls of a '
                f'loss are known to be on {known}. Such a model needs a readout of its own.'
            )
        return self._parts[call]
