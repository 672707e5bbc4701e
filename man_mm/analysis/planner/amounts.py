"""Amounts of memory as people write them."""

import math
import re
from typing import Any

__all__ = ['parse_bytes']

UNITS = {
    'B': 1,
    **{f'{prefix}B': 1000**power for power, prefix in enumerate(('k', 'M', 'G', 'T'), 1)},
    **{f'{prefix}iB': 1024**power for power, prefix in enumerate(('K', 'M', 'G', 'T'), 1)},
}


def parse_bytes(key: str, value: Any) -> int:
    """Return the number of bytes that `value` means, e.g. 6442450944 for '6GiB'.

    Args:
        key: What an error calls it.
        value: A number of bytes, or a number and a unit.

    Raises:
        ValueError: If it is neither, or less than a byte.
    """
    number, unit = value, 'B'
    if isinstance(value, str):
        match = re.fullmatch(r'\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*', value)
        number, unit = (float(match[1]), match[2] or 'B') if match else (None, unit)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    if not is_number or unit not in UNITS or number * UNITS[unit] < 1:
        raise ValueError(
            f"{key}={value!r} must be a number of bytes, or a number with a unit, e.g. '6GiB'. "
            f'Units: {", ".join(UNITS)}.'
        )
    return int(number * UNITS[unit])
