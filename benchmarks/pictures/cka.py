"""Compare trained models layer by layer by minibatch CKA; see man_mm.analysis.cka.

The models that have the first one's name are the reference: each is compared with every other model, and with each
other, so that seeds of one method tell how alike two models can be expected to be. The images are the first config's.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from _common_arguments import add_layers, facts, load_models, write_layers
from rich.console import Console
from rich.table import Table

from man_mm.analysis.cka import compare_layers
from man_mm.analysis.features import unit_names
from man_mm.analysis.trained import evaluation_batches


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layers(parser, fewest=2, images=2000)
    parser.add_argument('--split', choices=['val', 'test'], default='test')
    parser.add_argument('--pooled', action='store_true', help='compare means over positions, not whole maps')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names, configs, models = load_models(args)
    references = [i for i, name in enumerate(names) if name == names[0]]
    others = [i for i, name in enumerate(names) if name != names[0]]
    pairs = [*combinations(references, 2), *((i, j) for j in others for i in references)]
    sizes: list[int] = []
    try:
        layers = args.layers or common_units(names, models)
        batches = noted(evaluation_batches(configs[0], args.images, args.batch, args.split), sizes)
        matrices = compare_layers(models, pairs, batches, args.layers, args.pooled)
    except ValueError as error:
        sys.exit(str(error))
    report = dict(
        **facts(args, names),
        kind='cka',
        features='means over positions' if args.pooled else 'whole maps',
        images=sum(sizes),  # a data set may have fewer than --images
        batch=args.batch,
        split=args.split,
        layers=layers,
        pairs=[
            dict(first=first, second=second, cka=[[round(value, 4) for value in row] for row in matrix.tolist()])
            for (first, second), matrix in zip(pairs, matrices, strict=True)
        ],
    )
    print_curves(report)
    write_layers(report, args)


def common_units(names: Sequence[str], models: Sequence[Any]) -> list[str]:
    """Names of the units of all backbones, which have to be the same: a curve compares equal layers."""
    units = [list(unit_names(model)) for model in models]
    for name, own in zip(names, units, strict=True):
        if own != units[0]:
            raise ValueError(f'backbones of {names[0]} and {name} have other units: name layers of both by --layers.')
    return units[0]


def noted(batches: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    """Batches; how many images each has goes to `sizes`."""
    for batch in batches:
        sizes.append(len(batch['inputs']))
        yield batch


def print_curves(report: dict) -> None:
    """A line per layer, a column per pair: the same layer of both models."""
    names = [model['name'] for model in report['models']]
    table = Table('layer', *(f'{names[pair["first"]]} - {names[pair["second"]]}' for pair in report['pairs']))
    for i, layer in enumerate(report['layers']):
        table.add_row(layer, *(f'{pair["cka"][i][i]:.3f}' for pair in report['pairs']))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == '__main__':
    main()
