"""FeatureBank: what the modules behind a cut cannot reach any more."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ['FeatureBank']


class FeatureBank:
    """The taps of one iteration, detached, with the inputs and targets that local losses need (paper, Eq. 3).

    Opened before a training forward, filled by it, closed after it, also when it raises. Nothing outlives an iteration.

    Args:
        is_lent: False lends zeros instead of the taps.
    """

    def __init__(self, is_lent: bool = True) -> None:
        self.is_lent = is_lent
        self.peak_bytes = 0
        self.is_open = False
        self.inputs: Any = None
        self.targets: Any = None
        self._entries: dict[str, tuple[Tensor, int]] = {}

    def open(self, inputs: Any, targets: Any) -> None:
        """Start an iteration with the preprocessed `inputs` and `targets` of its batch."""
        self.close()
        self.is_open = True
        self.peak_bytes = 0
        self.inputs, self.targets = inputs, targets

    def close(self) -> None:
        """Drop everything."""
        self.is_open = False
        self.inputs = self.targets = None
        self._entries.clear()

    def put(self, name: str, feature: Tensor) -> None:
        """Store `feature`, (N, C, H, W) or pooled (N, C), detached: a view of it."""
        assert self.is_open, 'the bank stores only between open() and close()'
        stored = feature.detach()
        self._entries[name] = (stored, stored._version)
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def get(self, name: str) -> Tensor:
        """Return a tap, detached.

        Raises:
            KeyError: If no module has put `name` in this iteration.
            RuntimeError: If a later in-place operation changed the stored tensor.
        """
        if name not in self._entries:
            raise KeyError(f'the feature bank holds no tap {name!r}; it holds {sorted(self._entries)}.')
        stored, version = self._entries[name]
        if stored._version != version:
            raise RuntimeError(
                f'tap {name!r} was changed in place after it was banked: a unit behind the cut starts with an in-place '
                'operation. Describe the unit so that the tap ends after it.'
            )
        return stored

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
        return (stored for stored, _ in self._entries.values())
