"""What command lines that make a curve over the layers of trained models have in common."""

import argparse
import json
from pathlib import Path

from models_line import add_models
from plot_layers import draw

__all__ = ['add_layers', 'write_layers']


def add_layers(parser: argparse.ArgumentParser, fewest: int, images: int) -> None:
    """Add the arguments, those of `add_models` too; `images` is the default of `--images`."""
    add_models(parser, fewest)
    parser.add_argument('--layers', nargs='+', help='names of modules; default: the ends of the units of the backbone')
    parser.add_argument('--images', type=int, default=images, help='at most, of each set that is read')
    parser.add_argument('--batch', type=int, default=250, help='images of a minibatch; CKA needs 4 or more')
    parser.add_argument('--json', type=Path, help='file to write all numbers to')
    parser.add_argument('--out', type=Path, help='picture to draw, as plot_layers.py does from the JSON')


def write_layers(report: dict, args: argparse.Namespace) -> None:
    """Write the report and draw it, as far as the arguments ask for it."""
    if args.json:
        args.json.write_text(json.dumps(report) + '\n')
    if args.out:
        draw(report, args.out)
