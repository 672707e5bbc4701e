"""Draw what fills the memory of a training step: its course, and the peak by kind, from a file of measurements.

A local rule makes a hump for every module where back-propagation makes one mountain.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from style import PALETTE, save, short_names

KINDS = {
    'weights': '#4d4d4d',
    'auxiliary': '#9a9a9a',
    'gradients': PALETTE['red'],
    'optimizer': PALETTE['orange'],
    'activations': PALETTE['blue'],
    'bank': PALETTE['green'],
}
"""Parts of a peak, from the bottom; see `man_mm.analysis.memory.KINDS`."""
ROWS = tuple(PALETTE[name] for name in ('black', 'blue', 'red', 'green', 'purple', 'orange'))
"""The first one is the reference."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('measured', type=Path, help='JSON of measure.py')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. memory.png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    measured = json.loads(args.measured.read_text())
    rows = measured.get('rows') or []
    if not rows or not all('timeline_mib' in row for row in rows):
        sys.exit(f'{args.measured} holds no course of a step: write it with measure.py --json.')
    names = short_names([Path(row['config']).stem for row in rows])
    height = max(4.2, 1.6 + 0.55 * len(rows))
    figure, (course, peak) = plt.subplots(
        1, 2, figsize=(12, height), width_ratios=(3, 2), layout='constrained', gridspec_kw=dict(wspace=0.04)
    )
    draw_course(course, rows, names)
    draw_peaks(peak, rows, names)
    size = rows[0]['size']
    images = 'training images' if size is None else f'images of {size[1]} x {size[0]} px'
    figure.suptitle(f'One training step, {rows[0]["batch"]} {images}, {measured["device"]}')
    save(figure, args.picture)


def draw_course(axis: Axes, rows: list[dict], names: list[str]) -> None:
    """Live tensors over a step, and the borders of the modules of the row that has the most."""
    means = [np.mean(row['timeline_mib']) for row in rows]
    for place, i in enumerate(sorted(range(len(rows)), key=means.__getitem__, reverse=True)):  # the lowest in front
        timeline, colour = rows[i]['timeline_mib'], ROWS[i % len(ROWS)]
        x = np.linspace(0, 1, len(timeline))
        tint = 0.85 + 0.15 * np.array(to_rgb(colour))
        axis.fill_between(x, timeline, color=tint, linewidth=0, zorder=place / len(rows))
        axis.plot(x, timeline, color=colour, linewidth=1.4, zorder=2)
    lines = [Line2D([], [], color=ROWS[i % len(ROWS)]) for i in range(len(rows))]
    axis.legend(lines, names, ncols=min(len(rows), 3), loc='lower center', bbox_to_anchor=(0.5, 1))
    most = max(range(len(rows)), key=lambda i: len(rows[i]['modules']))
    borders = [module['begins'] / len(rows[most]['timeline_mib']) for module in rows[most]['modules'][1:]]
    if borders:
        axis.vlines(borders, 0, 0.025, ROWS[most % len(ROWS)], linewidth=1, transform=axis.get_xaxis_transform())
        axis.set_xlabel(f'fraction of the operations of the step (ticks: where modules of {names[most]} begin)')
    else:
        axis.set_xlabel('fraction of the operations of the step')
    axis.set_ylabel('live tensors (MiB)')
    axis.set_xlim(0, 1)
    axis.set_ylim(0)
    axis.grid(False)


def draw_peaks(axis: Axes, rows: list[dict], names: list[str]) -> None:
    """A bar for every peak, of its parts, from the top in the order of the rows."""
    places = range(len(rows))
    ends = np.zeros(len(rows))
    for kind, colour in KINDS.items():
        sizes = np.array([row[f'{kind}_mib'] for row in rows])
        if sizes.any():
            axis.barh(places, sizes, 0.62, left=ends, color=colour, label=kind)
        ends += sizes
    for place, row, end in zip(places, rows, ends, strict=True):
        ratio = row['peak_mib'] / rows[0]['peak_mib']
        text = f' {row["peak_mib"]:,.0f}' + (f'  ({ratio:.2f} x)' if place else '')
        axis.text(end, place, text, va='center')
    axis.set_yticks(places, names)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, 1.25 * max(ends))
    axis.set_xlabel('peak (MiB)')
    axis.legend(frameon=False, ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1))
    axis.grid(False, axis='y')


if __name__ == '__main__':
    main()
