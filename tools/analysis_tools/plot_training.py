"""Draw what runs logged in training: the losses and the local loss of each module, and norms of gradients if there are.

A row per work folder. Gradient norms are logged when gradients are clipped; to log those of each module and of the rest
of the model, the shared head among it, without to change anything, train with
`--cfg-options optim_wrapper.clip_grad.max_norm=1e9 optim_wrapper.clip_grad.per_module=True`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import INK, save, shades

from man_mm.analysis.scalars import read_scalars

OWN = ('total', 'grad_norm')
"""What a module may log."""
WHOLE = {'loss': 'main loss', 'grad_norm': 'neck and head'}
"""What the black line is where modules have lines of their own."""
LOG_FROM = 20
"""Values that span so large a factor are drawn on a logarithmic scale."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', type=Path, nargs='+', help='work folders of runs')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. training.png')
    parser.add_argument('--names', nargs='+', help='a name for each run; default: those of the folders')
    parser.add_argument('--smooth', type=int, default=1, help='logged values that are averaged to one that is drawn')
    args = parser.parse_args()
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
    """Values of every module, dark to light, and in black those of the whole or the rest of the model."""
    own = own_keys(rows, local)
    colours = shades(max(len(own_keys(rows, name)) for name in OWN))  # the last module has no local loss
    for key, colour in zip(own, colours, strict=False):
        axis.plot(*series(rows, key, smooth), color=colour, linewidth=1.1)
    if whole in rows[-1]:
        axis.plot(*series(rows, whole, smooth), color=INK, linewidth=1.8, linestyle='--' if own else '-')
    if own:
        label_modules(axis, colours[: len(own)], WHOLE[whole])
    drawn = np.concatenate([line.get_ydata() for line in axis.lines if len(line.get_ydata())])
    if drawn.min() > 0 and drawn.max() > LOG_FROM * drawn.min():
        axis.set_yscale('log')


def series(rows: list[dict], key: str, smooth: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values, means of `smooth` rows each."""
    points = np.array([(row['step'], row[key]) for row in rows if key in row])
    whole = points[: len(points) // smooth * smooth]
    return tuple(whole.reshape(-1, smooth, 2).mean(1).T)


def label_modules(axis: Axes, colours: list, rest: str) -> None:
    """A legend for all of a few modules, or the first, the middle and the last one of many."""
    num = len(colours)
    chosen = range(num) if num <= 4 else (0, num // 2, num - 1)
    for module in chosen:
        axis.plot([], [], color=colours[module], label=f'module {module}')
    axis.plot([], [], color=INK, linestyle='--', linewidth=1.8, label=rest)
    axis.legend(fontsize=8, loc='upper right')


if __name__ == '__main__':
    main()
