"""How the pictures of this project look: one set of fonts, and one colour and marker for each rule in all of them.

The colours are those of Okabe and Ito (wine is Tol's), told apart by the colour-blind; markers tell the rules apart in
grey.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib

matplotlib.use('Agg')  # no display needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

__all__ = ['INK', 'PALETTE', 'label_points', 'look', 'save', 'shades', 'short_names']

INK, GREY = '#222222', '#8a8a8a'
PALETTE = {
    'black': INK,
    'blue': '#0072b2',
    'sky': '#56b4e9',
    'red': '#d55e00',
    'green': '#009e73',
    'purple': '#cc79a7',
    'orange': '#e69f00',
    'wine': '#882255',
    'grey': GREY,
}
RULES = {
    'bp': ('black', 's'),
    'man': ('blue', 'o'),
    'nobank': ('sky', 'D'),
    'lean': ('green', 'P'),
    'dgl': ('red', '^'),
    'predsim': ('grey', 'X'),
    'infopro': ('purple', 'v'),
    'contrast': ('wine', '<'),
    'auglocal': ('orange', 'd'),
    'untrained': ('grey', '.'),
}
"""By a part of a method's name; a later entry wins, so `man-nobank` is not drawn as `man`."""
MODULES = 'cividis'
"""Map of colours of modules, the first one dark."""
PLACES = ((7, 6), (-7, -7), (7, -7), (-7, 7), (0, 11), (0, -12), (12, 16), (-12, -18), (14, -16), (-14, 16), (20, 0))
"""Offsets of labels from their points, in points, the best first."""

plt.rcParams.update(
    {
        'font.size': 10,
        'axes.titlesize': 11,
        'axes.labelsize': 10,
        'axes.axisbelow': True,
        'axes.edgecolor': '#555555',
        'axes.grid': True,
        'axes.spines.right': False,
        'axes.spines.top': False,
        'figure.dpi': 100,
        'figure.titlesize': 12,
        'grid.alpha': 0.25,
        'legend.fontsize': 9,
        'legend.frameon': False,
        'lines.linewidth': 1.6,
        'savefig.dpi': 140,
    }
)


def look(name: str) -> dict[str, Any]:
    """Colour and marker of a method, by the parts of its name, e.g. of `man-k4` or `MAN, K=4`."""
    found = [rule for rule in RULES if rule in name.lower()]
    colour, marker = RULES[found[-1]] if found else ('grey', '.')
    return dict(color=PALETTE[colour], marker=marker)


def shades(num: int) -> list[Any]:
    """Colours for `num` modules in order; the brightest yellow, which paper swallows, is left out."""
    return [matplotlib.colormaps[MODULES](0.85 * i / max(1, num - 1)) for i in range(num)]


def short_names(stems: Sequence[str]) -> list[str]:
    """Names of configs without the parts that all of them have, unless that leaves too little."""
    parts = [stem.split('_') for stem in stems]
    shared = set(parts[0]).intersection(*parts)
    short = [' '.join(part for part in own if part not in shared) for own in parts]
    return short if all(short) and len(set(short)) == len(set(stems)) else list(stems)


def label_points(axis: Axes, labels: Sequence[tuple[float, float, str, str]], size: float = 8) -> None:
    """Write a label beside each point, at the first place around it that covers no point and no earlier label.

    Call it when the limits of the axis and the layout of its figure are final.

    Args:
        axis: Where.
        labels: x, y, text and colour of each point.
        size: Of the font, in points.
    """
    renderer = axis.figure.canvas.get_renderer()
    marks = [axis.transData.transform(point[:2]) for point in labels]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in marks]
    for x, y, text, colour in labels:
        for dx, dy in PLACES:
            side = dict(ha=('right', 'center', 'left')[(dx > 0) - (dx < 0) + 1], va='center')
            written = axis.annotate(
                text, (x, y), (dx, dy), textcoords='offset points', fontsize=size, color=colour, **side
            )
            area = written.get_window_extent(renderer)
            if (dx, dy) == PLACES[-1] or not any(area.overlaps(other) for other in taken):
                taken.append(area)
                break
            written.remove()


def save(figure: Figure, target: Path | BinaryIO) -> None:
    """Write a picture, to a file whose folder is made, or as PNG to a stream."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target)
    else:
        figure.savefig(target, format='png')
    plt.close(figure)
