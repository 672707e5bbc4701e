"""Write the config file that --local-learning K of train.py stands for: a short one that inherits a plain config."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from man_mm.config import Keys, choose_keys
from man_mm.runs.compat import read_config

CALL = '''# {said}
_base_ = {base!r}
from man_mm.config import local_learning

{light}model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules={num_modules}, {backbone}auxiliary={auxiliary}
)
{rest}'''


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='plain config: a path, or the name of an installed one, e.g. mmdet::retinanet/...')
    parser.add_argument('--num-modules', type=int, default=4, metavar='K', help='modules; default: 4')
    parser.add_argument('--lean', action='store_true', help='the form that saves most memory')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    return parser.parse_args()


def leaf(cfg: Config, keys: Keys, base: str) -> str:
    """Text of a config file that inherits `base` and gives what `keys` make of it, `cfg`."""
    known = {'_base_.model.neck': cfg.model.get('neck'), '_base_.model.bbox_head': cfg.model.get('bbox_head')}
    light = []
    auxiliary = dict(keys.form.auxiliary)
    own = {'neck': auxiliary.get('neck'), 'head': (auxiliary.get('head') or {}).get('bbox_head')} if keys else {}
    return CALL.format()


if __name__ == '__main__':
    main()
