"""Train a linear classifier on the frozen features of every layer of trained models; see man_mm.analysis.probes.

The images are those of the first config's training and test sets, without augmentation.
"""

import argparse
import json
import sys
from pathlib import Path

from models_line import add_models, facts, load_models
from plot_layers import draw
from rich.console import Console
from rich.table import Table

from man_mm.analysis.probes import labelled_features, probe_layers
from man_mm.analysis.trained import evaluation_batches


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_models(parser, fewest=1)
    parser.add_argument('--images', type=int, default=5000, help='at most, to train a probe on, and to test it on')
    parser.add_argument('--batch', type=int, default=250)
    parser.add_argument('--strength', type=float, default=1.0, help='inverse weight of the L2 penalty')
    parser.add_argument('--json', type=Path, help='file to write all numbers to')
    parser.add_argument('--out', type=Path, help='picture to draw, as plot_layers.py does from the JSON')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names, configs, models = load_models(args)
    report = dict(
        **facts(args, names), kind='probe', images=args.images, features='means over positions', strength=args.strength
    )
    for row, model in zip(report['models'], models, strict=True):
        try:
            train, test = (
                labelled_features(model, evaluation_batches(configs[0], args.images, args.batch, split), args.layers)
                for split in ('train', 'test')
            )
        except ValueError as error:
            sys.exit(str(error))
        scores = probe_layers(train, test, args.strength)
        row['accuracy'] = {layer: round(score, 2) for layer, score in scores.items()}
        report['layers'] = list(scores)
    table = Table('layer', *names)
    for layer in report['layers']:
        table.add_row(layer, *(f'{row["accuracy"][layer]:.1f}' for row in report['models']))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + '\n')
    if args.out:
        draw(report, args.out)


if __name__ == '__main__':
    main()
