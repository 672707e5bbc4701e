"""Draw what runs logged in training: the losses and the local loss of each module, and norms of gradients if there are.

A row per work folder. Gradient norms are logged when gradients are clipped; to log those of each module and of the rest
of the model, the shared head among it, without changing anything, train with
`--cfg-options optim_wrapper.clip_grad.max_norm=1e9 optim_wrapper.clip_grad.per_module=True`.
"""

import argparse
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import INK, save, shades

from man_mm.analysis.scalars import read_scalars

OWN = ('total', 'grad_norm')
"""What a module may log."""
WHOLE = {'loss': 'main loss', 'grad_norm': 'the rest'}
"""What the black line is where modules have lines of their own."""
DASHES = ('--', ':', '-.', (0, (5, 1, 1, 1, 1, 1)))
LOG_FROM = 20
"""Values that span so large a factor are drawn on a logarithmic scale."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', type=Path, nargs='+', help='work folders of runs')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. training.png')
    parser.add_argument('--names', nargs='+', help='a name for each run; default: those of the folders')
    parser.add_argument('--smooth', type=int, default=1, help='logged values that are averaged to one that is drawn')
    args = parser.parse_args()
    if args.smooth < 1:
        parser.error(f'--smooth {args.smooth}: must be 1 or more')
    if args.names and len(args.names) != len(args.work_dirs):
        parser.error(f'--names has {len(args.names)} names for {len(args.work_dirs)} work folders')
    return args


def main() -> None:
    args = parse_args()
    try:
        runs = [read_scalars(folder)[0] for folder in args.work_dirs]
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    for folder, rows in zip(args.work_dirs, runs, strict=True):
        if not rows:
            raise SystemExit(f'{folder} has logged no step of training yet.')
    save(draw(runs, args.names or [folder.name for folder in args.work_dirs], args.smooth), args.picture)


def draw(runs: Sequence[list[dict]], names: Sequence[str], smooth: int = 1) -> Figure:
    """Draw a row of panels per run: losses, and norms of gradients where any run has them.

    Args:
        runs: Rows of training, see `man_mm.analysis.scalars`.
        names: Of the runs.
        smooth: Logged values that are averaged to one.
    """
    has_norms = any('grad_norm' in rows[-1] for rows in runs)
    columns = 1 + has_norms
    size = (5.2 * columns, 3.1 * len(runs) + 0.3)
    figure, axes = plt.subplots(len(runs), columns, figsize=size, squeeze=False, layout='constrained')
    for line, rows, name in zip(axes, runs, names, strict=True):
        draw_series(line[0], rows, 'total', 'loss', smooth)
        line[0].set_ylabel('training loss')
        line[0].set_title(name, loc='left')
        if has_norms:
            draw_series(line[1], rows, 'grad_norm', 'grad_norm', smooth)
            line[1].set_ylabel('gradient norm')
            line[1].set_title('by module' if own_keys(rows, 'grad_norm') else 'of the whole model', loc='left')
    for axis in axes[-1]:
        axis.set_xlabel('iteration')
    return figure


def own_keys(rows: list[dict], name: str) -> list[str]:
    """Keys of what modules log under `name`, in order of the modules."""
    return sorted(key for key in rows[-1] if re.fullmatch(rf'local_\d+/{name}', key))


def draw_series(axis: Axes, rows: list[dict], local: str, whole: str, smooth: int) -> None:
    """Values of every module, dark to light, and in black those of the whole or of the rest of the model: of each of
    its parts, the neck and the heads, where these were logged.
    """
    own = own_keys(rows, local)
    colours = shades(max(len(own_keys(rows, name)) for name in OWN))  # the last module has no local loss
    for key, colour in zip(own, colours, strict=False):
        axis.plot(*series(rows, key, smooth), color=colour, linewidth=1.1)
    parts = sorted(key for key in rows[-1] if key.startswith(f'{whole}/'))
    black = dict(zip(parts or [whole] * (whole in rows[-1]), cycle(DASHES if own else '-')))
    for key, dashes in black.items():
        axis.plot(*series(rows, key, smooth), color=INK, linewidth=1.8, linestyle=dashes)
    if own:
        names = {WHOLE.get(key, key.rpartition('/')[2]): dashes for key, dashes in black.items()}
        label_modules(axis, colours[: len(own)], names)
    drawn = np.concatenate([[], *(line.get_ydata() for line in axis.lines)])  # a run may have logged none of it
    if drawn.size and drawn.min() > 0 and drawn.max() > LOG_FROM * drawn.min():
        axis.set_yscale('log')


def series(rows: list[dict], key: str, smooth: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values, means of `smooth` rows each."""
    points = np.array([(row['step'], row[key]) for row in rows if key in row])
    smooth = min(smooth, len(points))
    whole = points[: len(points) // smooth * smooth]
    return tuple(whole.reshape(-1, smooth, 2).mean(1).T)


def label_modules(axis: Axes, colours: list, black: dict[str, str]) -> None:
    """A legend for all of a few modules, or the first, the middle and the last one of many."""
    num = len(colours)
    chosen = range(num) if num <= 4 else (0, num // 2, num - 1)
    for module in chosen:
        axis.plot([], [], color=colours[module], label=f'module {module}')
    for name, dashes in black.items():
        axis.plot([], [], color=INK, linestyle=dashes, linewidth=1.8, label=name)
    axis.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))


if __name__ == '__main__':
    main()
