"""What a `LocalBackbone` asks of its keys, beside their names."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from mmengine.logging import print_log

__all__ = [
    'bank_precision',
    'check_auxiliary',
    'checked_overlap',
    'checked_tail_chunks',
    'checked_train_every',
    'planned',
]

BANK_DTYPES = ('float16', 'bfloat16', 'float32')


def planned(num_modules: int | str, memory_budget: str | int | None) -> int:
    """Return `num_modules`, which a plan has made a number."""
    if num_modules == 'auto':
        missing = " It also needs memory_budget, e.g. '6GiB'." if memory_budget is None else ''
        raise ValueError(
            "num_modules='auto' is no number of modules yet: man_mm's tools/train.py finds the one that fits in "
            'memory_budget before it builds the model; for other programs, tools/analysis_tools/plan.py CONFIG --out '
            f'PLAIN_CONFIG.py writes a config with numbers in it.{missing}'
        )
    if memory_budget is not None:
        raise ValueError(
            f"memory_budget={memory_budget!r} goes with num_modules='auto', not with num_modules={num_modules!r}: "
            'leave one of them out.'
        )
    return cast(int, num_modules)  # `partition` refuses what is none


def bank_precision(name: str | None) -> torch.dtype | None:
    """Return the precision of that name; None, as features come, for None."""
    if name is not None and name not in BANK_DTYPES:
        raise ValueError(f'bank_dtype={name!r} must be one of {BANK_DTYPES}, or None for the precision they come in.')
    return None if name is None else getattr(torch, name)


def check_auxiliary(auxiliary: dict[str, Any] | None, num_modules: int) -> None:
    """Raise ValueError if modules have nothing to be trained by."""
    if num_modules > 1 and not (isinstance(auxiliary, dict) and 'type' in auxiliary):
        raise ValueError(
            f'auxiliary={auxiliary!r}: with num_modules={num_modules} every module but the last one needs the '
            "config of a network that trains it, e.g. auxiliary=dict(type='man_mm.SLM', neck=...)."
        )


def checked_train_every(n: int, num_modules: int) -> int:
    """Return `n`; warn if it cannot act."""
    if not _counts(n):
        raise ValueError(f'train_every={n!r} must be an integer, 1 (every step) or more.')
    if n > 1:
        _warn_without_modules(f'train_every={n}', num_modules)
    return n


def checked_overlap(n: int, num_modules: int) -> int:
    """Return `n`, which `partition` holds against the lengths of modules; warn if it cannot act."""
    if n != 0 and not _counts(n):
        raise ValueError(f'overlap={n!r} must be an integer: units of a module that the next one trains too, or 0.')
    if n:
        _warn_without_modules(f'overlap={n}', num_modules)
    return n


def _warn_without_modules(setting: str, num_modules: int) -> None:
    if num_modules == 1:
        print_log(
            f'LocalBackbone: {setting} has nothing to act on: with num_modules=1 there are no local losses.',
            logger='current',
            level=logging.WARNING,
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
