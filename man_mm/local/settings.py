"""What a `LocalBackbone` asks of its keys, beside their names."""

from collections.abc import Sequence
from typing import Any

__all__ = ['check_auxiliary', 'checked_tail_chunks']


def check_auxiliary(auxiliary: dict[str, Any] | None, num_modules: int) -> None:
    """Raise ValueError if modules have nothing to be trained by."""
    if num_modules > 1 and not (isinstance(auxiliary, dict) and 'type' in auxiliary):
        raise ValueError(
            f'auxiliary={auxiliary!r}: with num_modules={num_modules} every module but the last one needs the '
            "config of a network that trains it, e.g. auxiliary=dict(type='man_mm.SLM', neck=...)."
        )


def checked_tail_chunks(n: int, num_modules: int, backbone: str, tail: Sequence[str]) -> int:
    """Return `n`, which needs layers behind the last unit of a backbone of that name, `tail`."""
    if not _counts(n):
        raise ValueError(f'tail_chunks={n!r} must be an integer, 1 (all at once, kept) or more.')
    if n > 1 and (num_modules == 1 or not tail):
        raise ValueError(
            f'tail_chunks={n} has nothing to act on: num_modules={num_modules}, and {backbone} has the layers '
            f'{list(tail)} behind its last unit.'
        )
    return n


def _counts(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1
