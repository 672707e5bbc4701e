"""Draw memory against operations of a training step, a point per setting, from files of levers.py --json.

Both are ratios to the first row, back-propagation. What costs more operations than --limit times that is left out.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
from style import label_points, look, save


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('files', type=Path, nargs='+', help='JSON of benchmarks/levers.py, a panel each')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. frontier.png')
    parser.add_argument('--limit', type=float, default=2.0, help='most operations, as a ratio to back-propagation')
    return parser.parse_args()


def short(name: str) -> str:
    """`man/retinanet_r50_manlean_k4_coco.py` -> `manlean_k4`; names of levers lose what all share."""
    if not name.endswith('.py'):
        return name.removeprefix('lean, ').removesuffix(", partition='memory'")
    return '_'.join(Path(name).stem.split('_')[2:-1])


def family(name: str) -> str:
    if name.startswith('bp'):
        return 'bp'
    return 'lean' if name.startswith(('manlean', 'K=')) else 'other'


def draw(axis: plt.Axes, file: Path, limit: float) -> list[tuple[float, float, str, str]]:
    """Draw the points of a file; return where and how each is to be labelled."""
    rows = json.loads(file.read_text())['rows']
    first, labels = rows[0], []
    for row in rows:
        x, y = row['gflops'] / first['gflops'], row['peak_mib'] / first['peak_mib']
        name = short(row['config'])
        is_peer = row['config'].endswith('.py') or row['config'].startswith('lean')
        if x > limit or not is_peer or (name == 'manlean_k4' and any('K=4,' in r['config'] for r in rows)):
            continue
        own = look(family(name))
        axis.plot(x, y, linestyle='none', **own)
        labels.append((x, y, name, own['color']))
    axis.set_title(file.stem.replace('memory_', '').replace('_', ', '))
    axis.set_xlabel('operations of a step (BP = 1)')
    axis.margins(x=0.2, y=0.1)
    axis.set_ylim(bottom=0)
    return labels


def main() -> None:
    args = parse_args()
    size = (4.6 * len(args.files), 4.2)
    figure, axes = plt.subplots(1, len(args.files), figsize=size, sharey=True, squeeze=False, layout='constrained')
    labels = [draw(axis, file, args.limit) for axis, file in zip(axes[0], args.files, strict=True)]
    axes[0, 0].set_ylabel('peak memory of a step (BP = 1)')
    figure.draw_without_rendering()  # only now the layout is known
    for axis, own in zip(axes[0], labels, strict=True):
        label_points(axis, own)
    save(figure, args.picture)


if __name__ == '__main__':
    main()
