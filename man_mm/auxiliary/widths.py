"""Necks, heads and layers, made to read what an auxiliary makes: maps or vectors of another width than the model's."""

from typing import Any

from torch import nn

from .layers import draw_afresh

__all__ = ['neck_that_reads', 'read_width', 'widen_head']


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


def widen_head(head: Any, name: str, in_channels: int, width: int) -> None:
    """Let a classification head that reads `in_channels` features read vectors of another width; draw it afresh."""
    layers = (layer for layer in head.modules() if isinstance(layer, nn.Linear))
    first = next((layer for layer in layers if layer.in_features == in_channels), None)
    if first is None:
        raise ValueError(
            f'auxiliary.head: {name} of type {type(head).__name__} has no linear layer that reads its '
            f'{in_channels or "unknown number of"} input features, so it cannot be made to read the {width} of this '
            'auxiliary.'
        )
    read_width(first, width)
    draw_afresh(head, but=first)
    head.in_channels = width


def read_width(layer: nn.Linear | nn.Conv2d, width: int) -> None:
    """Let a layer read `width` features or channels, with fresh weights. It stays of its class: it may normalise."""
    groups = getattr(layer, 'groups', 1)
    outputs, _, *kernel = layer.weight.shape
    layer.weight = nn.Parameter(layer.weight.new_empty(outputs, width // groups, *kernel))
    if isinstance(layer, nn.Linear):
        layer.in_features = width
    else:
        layer.in_channels = width
    layer.reset_parameters()
