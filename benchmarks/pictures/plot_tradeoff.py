"""Draw accuracy against memory and against time of a step, a point per method, from two files of measurements.

The accuracies come from a benchmark's --json, memory and time from measure.py --json; rows are matched by their config.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from style import look, save

AXES = {'peak_mib': 'peak of a training step (MiB)', 'step_s': 'training step (s)'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('accuracy', type=Path, help='JSON of a benchmark, e.g. benchmarks/cifar10.py')
    parser.add_argument('cost', type=Path, help='JSON of measure.py')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. tradeoff.png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    accuracy, cost = json.loads(args.accuracy.read_text()), json.loads(args.cost.read_text())
    costs = {Path(row['config']).name: row for row in cost['rows']}
    missing = [row['config'] for row in accuracy['rows'] if Path(row.get('config', '')).name not in costs]
    if missing:
        sys.exit(f'{args.cost} has no row for {missing}: measure the same configs with measure.py --json.')
    figure, axes = plt.subplots(1, len(AXES), figsize=(10, 4), sharey=True, layout='constrained')
    for axis, (key, label) in zip(axes, AXES.items(), strict=True):
        for row in accuracy['rows']:
            values = list(row['test_by_seed'].values())
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            x, y = costs[Path(row['config']).name][key], statistics.mean(values)
            axis.errorbar(x, y, spread, capsize=3, label=row['method'], linestyle='none', **look(row['method']))
        axis.set_xlabel(label)
        axis.margins(x=0.12, y=0.1)
        axis.set_xlim(left=0)
    protocol = accuracy['protocol']
    axes[0].set_ylabel(f'test {protocol["metric"]}')
    length, seeds = f'{protocol["length"]} {protocol["unit"]}', len(protocol['seeds'])
    figure.suptitle(f'{protocol["data"]}; {length}; mean and std of {seeds} seed(s)')
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=min(len(names), 8))
    save(figure, args.picture)


if __name__ == '__main__':
    main()
