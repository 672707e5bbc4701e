"""Necks and heads of detectors made narrow and short, for auxiliaries that are to cost little."""

from copy import deepcopy
from typing import Any

__all__ = ['LIGHT', 'light_parts']

LIGHT = 64
"""Width of light necks and heads, as of `man_mm.SlimSLM`."""

ROI_HEADS = ('StandardRoIHead', 'CascadeRoIHead')
"""Second stages whose parts are known; of a cascade, the first one is enough to train by."""

CASCADED = ('bbox_head', 'bbox_roi_extractor', 'mask_head', 'mask_roi_extractor')


def light_parts(model: Any) -> dict[str, Any] | None:
    """`neck` and `head` of an auxiliary for the detector of a config; None unless its heads read its neck at one width.

    Served are one dense head, `bbox_head`, and an `rpn_head` with a common `roi_head`.
    """
    neck = model.get('neck')
    width = neck.get('out_channels') if isinstance(neck, dict) else None
    if not isinstance(width, int) or width <= LIGHT:
        return None
    heads = {name: part for name, part in model.items() if name.endswith('head') and isinstance(part, dict)}
    first = heads.get('bbox_head', heads.get('rpn_head'))
    if first is None or first.get('in_channels') != width:
        return None
    if list(heads) == ['bbox_head']:
        light = dict(bbox_head=_dense_head(first))
    elif sorted(heads) == ['roi_head', 'rpn_head'] and _is_known(heads['roi_head'], width):
        light = dict(rpn_head=_dense_head(first), roi_head=_roi_head(heads['roi_head'], width))
    else:
        return None
    return dict(neck={**deepcopy(neck), 'out_channels': LIGHT}, head=light)


def _is_known(roi_head: Any, width: int) -> bool:
    """Whether all heads of a second stage say by `in_channels` that they read the neck."""
    parts = [part for name in ('bbox_head', 'mask_head') for part in _list(roi_head.get(name))]
    return roi_head.get('type') in ROI_HEADS and bool(parts) and all(p.get('in_channels') == width for p in parts)


def _list(part: Any) -> list[Any]:
    return list(part) if isinstance(part, (list, tuple)) else [] if part is None else [part]


def _dense_head(head: Any) -> Any:
    head = deepcopy(head)
    smaller = dict(in_channels=LIGHT, feat_channels=LIGHT, stacked_convs=1)
    head.update({key: value for key, value in smaller.items() if key in head})
    if 'scales_per_octave' in head.get('anchor_generator', {}):
        head['anchor_generator'].update(scales_per_octave=1)
    return head


def _roi_head(head: Any, width: int) -> Any:
    head = deepcopy(head)
    if 'num_stages' in head:
        firsts = {name: head[name][0] for name in CASCADED if isinstance(head.get(name), (list, tuple))}
        head.update(num_stages=1, stage_loss_weights=[1], **firsts)
    return _narrowed(head, width)


def _narrowed(part: Any, width: int) -> Any:
    """`part` with `LIGHT` in place of `width` channels, layers of fewer features, and one convolution in a row."""
    if not isinstance(part, dict):
        return part
    most = dict(conv_out_channels=LIGHT, fc_out_channels=4 * LIGHT, num_convs=1)
    part.update({key: min(part[key], value) for key, value in most.items() if isinstance(part.get(key), int)})
    part.update({key: LIGHT for key in ('in_channels', 'out_channels') if part.get(key) == width})
    part.update({key: _narrowed(value, width) for key, value in part.items()})
    return part
