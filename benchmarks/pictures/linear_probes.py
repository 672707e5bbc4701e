"""Train a linear classifier on the frozen features of every layer of trained models; see man_mm.analysis.linear_probes.

A probe is trained on images of the first config's training set and tested on those of its test set, without
augmentation.
"""

import argparse
import sys

from _common_arguments import add_layers, facts, load_models, write_layers
from rich.console import Console
from rich.table import Table

from man_mm.analysis.linear_probes import labelled_features, probe_layers
from man_mm.analysis.trained import evaluation_batches


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layers(parser, fewest=1, images=5000)
    parser.add_argument('--strength', type=float, default=1.0, help='inverse weight of the L2 penalty')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names, configs, models = load_models(args)
    report = dict(**facts(args, names), kind='probe', features='means over positions', strength=args.strength)
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
        report |= dict(images_train=len(train[1]), images_test=len(test[1]))  # a data set may have fewer than --images
    table = Table('layer', *names)
    for layer in report['layers']:
        table.add_row(layer, *(f'{row["accuracy"][layer]:.1f}' for row in report['models']))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    write_layers(report, args)


if __name__ == '__main__':
    main()
