"""FeatureBank: what the modules after a cut cannot reach any more."""

import math
from collections.abc import Iterator, Mapping, Set

from torch import Tensor

__all__ = ['FeatureBank']


class FeatureBank:
    """The taps of one training step, detached (paper, Eq. 3). Made for a step and dropped with it.

    Args:
        pooled: Names of the taps to bank, and whether the bank keeps the means (N, C) of their maps (N, C, H, W).
        is_lent: False lends zeros instead of the taps.
        unread: Names of taps of which nobody reads the values: NaN of their shape is banked, in no memory.
    """

    def __init__(self, pooled: Mapping[str, bool], is_lent: bool = True, unread: Set[str] = frozenset()) -> None:
        self.pooled = pooled
        self.is_lent = is_lent
        self.unread = unread
        self.peak_bytes = 0
        self._entries: dict[str, tuple[Tensor, int]] = {}

    def put(self, taps: Mapping[str, Tensor]) -> None:
        """Bank those of a module's `taps` that are to be banked, detached: views of them, or their means."""
        for name in taps.keys() & self.pooled.keys():
            self.restore({name: taps[name].detach().mean((2, 3)) if self.pooled[name] else taps[name]})

    def restore(self, taps: Mapping[str, Tensor]) -> None:
        """Bank, detached, what `taps()` of a bank in another process was."""
        for name, tap in taps.items():
            stored = tap.new_full((), math.nan).expand(tap.shape) if name in self.unread else tap.detach()
            self._entries[name] = (stored, stored._version)
        self.peak_bytes = max(self.peak_bytes, self.nbytes)

    def get(self, name: str) -> Tensor:
        """Return a tap, detached.

        Raises:
            KeyError: If no module has banked `name` in this step.
            RuntimeError: If a later in-place operation changed the stored tensor.
        """
        if name not in self._entries:
            raise KeyError(f'the feature bank holds no tap {name!r}; it holds {sorted(self._entries)}.')
        stored, version = self._entries[name]
        if stored._version != version:
            raise RuntimeError(
                f'tap {name!r} was changed in place after it was banked: a unit after the cut starts with an in-place '
                'operation. Describe the unit so that the tap ends after it.'
            )
        return stored

    def taps(self) -> dict[str, Tensor]:
        """All taps by name, detached."""
        return {name: self.get(name) for name in self._entries}

    def seen_with(self, taps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Taps for an auxiliary: earlier ones as they are lent, detached, and of its module's own `taps`, which carry
        the module's graph, those that are banked as maps.
        """
        lent = {name: tap if self.is_lent else tap.new_zeros(()).expand_as(tap) for name, tap in self.taps().items()}
        return lent | {name: tap for name, tap in taps.items() if self.pooled.get(name) is False}

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        held = (stored for name, (stored, _) in self._entries.items() if name not in self.unread)
        return sum(stored.numel() * stored.element_size() for stored in held)

    def stored(self) -> Iterator[Tensor]:
        """The tensors that it holds."""
        return (stored for stored, _ in self._entries.values())
