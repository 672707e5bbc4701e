"""Arguments that command lines on trained models share, and what follows from them.

A model is a config and a checkpoint; some of the command lines make a curve over its layers.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from plot_layers import draw
from style import short_names

from man_mm.analysis.trained import UNTRAINED, load_trained
from man_mm.runs.compat import read_config

__all__ = ['add_layers', 'add_models', 'facts', 'load_models', 'write_layers']


def add_models(parser: argparse.ArgumentParser, fewest: int) -> None:
    """Add the arguments; `fewest` pairs are asked for."""
    parser.set_defaults(fewest=fewest)
    parser.add_argument(
        'models',
        nargs='+',
        metavar='CONFIG CHECKPOINT',
        help=f'configs, each followed by its checkpoint; {UNTRAINED!r} takes the weights that training starts from',
    )
    parser.add_argument('--names', nargs='+', help='a name for each model; those of one name are seeds of one method')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of all configs')


def add_layers(parser: argparse.ArgumentParser, fewest: int, images: int) -> None:
    """Add the arguments, those of `add_models` too; `images` is the default of `--images`."""
    add_models(parser, fewest)
    parser.add_argument('--layers', nargs='+', help='names of modules; default: the ends of the units of the backbone')
    parser.add_argument('--images', type=int, default=images, help='at most, of each set that is read')
    parser.add_argument('--batch', type=int, default=250, help='images of a minibatch; CKA needs 4 or more')
    parser.add_argument('--json', type=Path, help='file to write all numbers to')
    parser.add_argument('--out', type=Path, help='picture to draw, as plot_layers.py does from the JSON')


def load_models(args: argparse.Namespace) -> tuple[list[str], list[Config], list[Any]]:
    """Names, configs and models, as the arguments tell."""
    files, checkpoints = args.models[::2], args.models[1::2]
    if len(files) != len(checkpoints) or len(files) < args.fewest:
        sys.exit(f'{len(args.models)} files: every config needs its checkpoint behind it, {args.fewest} pairs or more.')
    names = args.names or short_names([Path(file).stem for file in files])
    if len(names) != len(files):
        sys.exit(f'--names has {len(names)} names for {len(files)} models.')
    MMLogger.get_instance('models', logger_name='models', log_level='ERROR')  # else every loaded file is a line
    configs = [read_config(file) for file in files]
    for cfg in configs:
        cfg.merge_from_dict(args.cfg_options or {})
    try:
        models = [load_trained(cfg, checkpoint) for cfg, checkpoint in zip(configs, checkpoints, strict=True)]
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    return names, configs, models


def facts(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """What a file of results says of the models and of where it was made."""
    models = zip(names, args.models[::2], args.models[1::2], strict=True)
    return dict(
        device=f'cpu ({platform.machine()})',
        torch=torch.__version__,
        models=[
            dict(name=name, config=Path(config).name, checkpoint=_brief(checkpoint))
            for name, config, checkpoint in models
        ],
    )


def write_layers(report: dict, args: argparse.Namespace) -> None:
    """Write the report and draw it, as far as the arguments ask for it."""
    if args.json:
        args.json.write_text(json.dumps(report) + '\n')
    if args.out:
        draw(report, args.out)


def _brief(checkpoint: str) -> str:
    """The file and its folder."""
    return '/'.join(Path(checkpoint).parts[-2:])
