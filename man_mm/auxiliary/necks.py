"""Necks, made to read what an auxiliary makes: maps of another width than the model's."""

from typing import Any

__all__ = ['neck_that_reads']


def neck_that_reads(neck: Any, widths: list[int]) -> Any:
    """The config of a neck of its own, made to read maps of these widths; None if it says no `in_channels`."""
    if isinstance(neck, list):
        first = neck_that_reads(neck[0], widths) if neck else None
        return first and [first, *neck[1:]]
    if not isinstance(neck, dict) or 'in_channels' not in neck:
        return None
    if isinstance(neck['in_channels'], int):
        return {**neck, 'in_channels': widths[-1]}
    return {**neck, 'in_channels': widths}
