"""The picture of a partition: units in the colours of their modules, auxiliaries above them, taps as lines between."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')  # no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from man_mm.analysis.module_rows import ModuleRow

__all__ = ['draw_partition']

INK, GREEN = '#222222', '#009e73'

UNIT_WIDTH = 0.42
"""Inches."""
READER = 0.22
"""Where an auxiliary reads taps, in units from the left border of its module."""
UNIT_TOP, FIRST_TAP, TAP_STEP, AUXILIARY_HEIGHT = 1.5, 2.05, 0.34, 0.8
"""Heights, in the picture's own unit, from the lower edge of the units."""


def draw_partition(
    rows: Sequence[ModuleRow], taps: Mapping[str, str], auxiliary: str, title: str, picture: Path
) -> None:
    """Draw a partition.

    Args:
        rows: See `man_mm.analysis.module_rows`.
        taps: Name of the tap by that of the unit that makes it.
        auxiliary: What the auxiliaries are called, e.g. `SLM`.
        title: Of the picture.
        picture: File to write.
    """
    units = [unit for row in rows for unit in row.units]
    read = {tap for row in rows for tap in row.reads}
    banked = [taps[unit] for unit in units if taps.get(unit) in read]
    level = {tap: FIRST_TAP + TAP_STEP * i for i, tap in enumerate(banked)}
    top = FIRST_TAP + TAP_STEP * max(1, len(banked)) + 0.25
    figure, axis = plt.subplots(figsize=(max(7.5, UNIT_WIDTH * len(units) + 1.6), 3.9), layout='constrained')
    axis.set_xlim(-0.3, len(units) + 0.3)
    axis.set_ylim(-0.75, top + AUXILIARY_HEIGHT + 0.1)
    axis.axis('off')
    figure.suptitle(title)
    ends = draw_units(axis, rows)
    draw_taps(axis, rows, units, taps, level, ends)
    for row, colour, end in zip(rows, shades(len(rows)), ends, strict=True):
        last = row is rows[-1]
        left = end - len(row.units)
        name = 'neck,\nhead' if last else auxiliary
        box(axis, left, top, len(row.units), AUXILIARY_HEIGHT, 'white', colour, INK, name)
        arrow(axis, end - 0.25, UNIT_TOP + 0.05, top - 0.02, INK)
        if row.reads:
            lowest = min(level[tap] for tap in row.reads)
            arrow(axis, left + READER, lowest, top - 0.02, GREEN)
            for tap in row.reads:
                axis.plot(left + READER, level[tap], 'o', color=GREEN, markersize=4)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=140)
    plt.close(figure)


def draw_units(axis: Axes, rows: Sequence[ModuleRow]) -> list[int]:
    """Draw the modules; return where each ends."""
    ends, x = [], 0
    for row, colour in zip(rows, shades(len(rows)), strict=True):
        for place, unit in enumerate(row.units):
            box(axis, x + place, 0, 1, UNIT_TOP, colour, 'white', readable(colour), unit, rotation=90)
        x += len(row.units)
        ends.append(x)
        axis.text(x - len(row.units) / 2, -0.12, f'{row.module}', ha='center', va='top', weight='bold')
    axis.text(x / 2, -0.48, 'modules' if len(rows) > 1 else 'module', ha='center', va='top', fontsize=9)
    return ends


def draw_taps(
    axis: Axes, rows: Sequence[ModuleRow], units: list[str], taps: Mapping[str, str], level: Mapping[str, float],
    ends: Sequence[int],
) -> None:  # fmt: skip
    """A line for every tap, from the unit that makes it to the last module that reads it."""
    for place, unit in enumerate(units):
        if taps.get(unit) not in level:
            continue
        tap, x = taps[unit], place + 0.5
        y = level[tap]
        readers = [end - len(row.units) + READER for row, end in zip(rows, ends, strict=True) if tap in row.reads]
        right = max(readers)
        axis.plot([x, x, right], [UNIT_TOP + 0.02, y, y], color=GREEN, linewidth=1.5)
        back = dict(facecolor='white', edgecolor='none', pad=1.5)  # an arrow may pass behind
        axis.text(x - 0.12, y, tap, color=GREEN, fontsize=8, ha='right', va='center', bbox=back, zorder=4)


def shades(num: int) -> list[Any]:
    """Colours for `num` modules in order; the brightest yellow, which paper swallows, is left out."""
    return [matplotlib.colormaps['cividis'](0.85 * i / max(1, num - 1)) for i in range(num)]


def box(
    axis: Axes, x: float, y: float, width: float, height: float, face: object, edge: object, ink: str, text: str,
    rotation: int = 0,
) -> None:  # fmt: skip
    shape = 'round,pad=0,rounding_size=0.1'
    place = (x + 0.04, y)
    axis.add_patch(
        FancyBboxPatch(place, width - 0.08, height, boxstyle=shape, facecolor=face, edgecolor=edge, linewidth=1.8)
    )
    narrow = rotation or width < 2
    axis.text(
        x + width / 2, y + height / 2, text, color=ink, fontsize=8, ha='center', va='center', rotation=90 * bool(narrow)
    )


def arrow(axis: Axes, x: float, bottom: float, top: float, colour: str) -> None:
    axis.annotate('', (x, top), (x, bottom), arrowprops=dict(arrowstyle='-|>', color=colour, linewidth=1.4))


def readable(colour: Sequence[float]) -> str:
    """Black or white, whichever stands out against `colour`."""
    red, green, blue = colour[:3]
    return 'white' if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else 'black'
