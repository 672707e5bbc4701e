"""FeatureBank: what the modules behind a cut cannot reach any more."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ['FeatureBank']


class FeatureBank:
    """The taps of one iteration, detached, with the inputs and targets that local losses need (paper, Eq. 3).

    Opened before a training forward, filled by it, closed after it, also when it raises. Nothing outlives an iteration.

    Args:
        dtype: Store in this precision, e.g. `torch.float16`; `get` restores the original one. Default: as it comes.
        is_lent: False lends zeros instead of the taps.
    """

    def __init__(self, dtype: torch.dtype | None = None, is_lent: bool = True) -> None:
        self.dtype = dtype
        self.is_lent = is_lent
        self.peak_bytes = 0
        self.is_open = False
        self.inputs: Any = None
        self.targets: Any = None
        self.step = 0
        self._entries: dict[str, tuple[Tensor, torch.dtype, int]] = {}

    def open(self, inputs: Any, targets: Any, step: int = 0) -> None:
        """Start an iteration with the preprocessed `inputs` and `targets` of its batch, in optimizer step `step`."""
        self.close()
        self.is_open = True
        self.peak_bytes = 0
        self.inputs, self.targets, self.step = inputs, targets, step

    def close(self) -> None:
        """Drop everything."""
        self.is_open = False
        self.inputs = self.targets = None
        self._entries.clear()

    def put(self, name: str, feature: Tensor) -> None:
        """Store `feature`, (N, C, H, W) or pooled (N, C), detached: a view of it, unless `dtype` differs."""
        assert self.is_open, 'the bank stores only between open() and close()'
        stored = feature.detach()
        if self.dtype is not None:
            stored = stored.to(self.dtype)
        self._entries[name] = (stored, feature.dtype, stored._version)
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def get(self, name: str) -> Tensor:
        """Return a tap, detached, in its original precision.

        Raises:
            KeyError: If no module has put `name` in this iteration.
            RuntimeError: If a later in-place operation changed the stored tensor.
        """
        if name not in self._entries:
            raise KeyError(f'the feature bank holds no tap {name!r}; it holds {sorted(self._entries)}.')
        stored, dtype, version = self._entries[name]
        if stored._version != version:
            raise RuntimeError(
                f'tap {name!r} was changed in place after it was banked: a unit behind the cut starts with an in-place '
                'operation. Describe the unit so that the tap ends after it.'
            )
        return stored.to(dtype)

    def taps(self) -> Mapping[str, Tensor]:
        """All taps by name, detached."""
        return {name: self.get(name) for name in self._entries}

    def lent(self) -> Mapping[str, Tensor]:
        """What auxiliaries see of the taps."""
        return {name: tap if self.is_lent else tap.new_zeros(()).expand_as(tap) for name, tap in self.taps().items()}

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(stored.numel() * stored.element_size() for stored in self.stored())

    def stored(self) -> Iterator[Tensor]:
        """What it holds, as stored."""
        return (stored for stored, _, _ in self._entries.values())
