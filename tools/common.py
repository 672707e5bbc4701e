"""What the command lines of train.py and test.py share."""

import argparse
import os
import os.path as osp
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from host_libraries import host_library_of
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed

from man_mm.analysis.planner import Plan, carry_out_plan
from man_mm.config import lost_keys
from man_mm.engine.setup_record import refuse_different_ranks
from man_mm.registry import MODEL_WRAPPERS
from man_mm.runs.compat import prepare_cpu_processes, read_config
from man_mm.runs.misspelt_keys import misspelt_keys

SAME_FOR_ALL_RANKS = (
    'model',
    'model_wrapper_cfg',
    'find_unused_parameters',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'custom_hooks',
    'auto_scale_lr',
    'randomness',
)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add upstream's arguments that training and testing have in common."""
    parser.add_argument('config', help='config file path, or the name of an installed one, e.g. mmdet::retinanet/...')
    parser.add_argument('--work-dir', help='the folder to save logs, models and metrics in')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override config settings: key=value, lists as key="[a,b]", without white space',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and merge the common arguments into it, as upstream does."""
    return set_up(given_config(args), args)


def given_config(args: argparse.Namespace) -> Config:
    """The config as its file and `--cfg-options` have it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def set_up(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the other common arguments into a config, look for what is misspelt, and prepare the processes."""
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    if os.environ['LOCAL_RANK'] == '0':
        for sentence in (*misspelt_keys(cfg), *lost_keys(cfg)):
            print(f'Warning: {sentence}', file=sys.stderr)
    refuse_unknown_wrapper(cfg)
    host_library_of(cfg).set_loader_defaults()
    prepare_cpu_processes(cfg)
    return cfg


def refuse_unknown_wrapper(cfg: Config) -> None:
    """A misspelt wrapper of ours would be an error in the runner that names nothing."""
    name = (cfg.get('model_wrapper_cfg') or {}).get('type')
    if isinstance(name, str) and name.startswith('man_mm.') and MODEL_WRAPPERS.get(name) is None:
        known = [f'man_mm.{own}' for own in sorted(MODEL_WRAPPERS.module_dict)]
        sys.exit(f'model_wrapper_cfg.type={name!r} is not known. Ours are {known}.')


def refuse_different_configs(cfg: Config) -> None:
    """Compare over all processes what has to be one config, before the model is built; names the rank and the keys."""
    if cfg.launcher == 'none':
        return
    if not is_distributed():
        init_dist(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
    try:
        refuse_different_ranks(dict(_leaves({key: cfg.get(key) for key in SAME_FOR_ALL_RANKS})))
    except ValueError as error:
        sys.exit(str(error))


def _leaves(value: Any, place: str = '') -> Iterator[tuple[str, str]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    if not inner:
        yield place, repr(value)
    for key, item in inner:
        yield from _leaves(item, f'{place}.{key}' if place else str(key))


def plan_modules(cfg: Config) -> tuple[Config, Plan | None]:
    """Choose K, cuts and what is recomputed, if the config has a `plan`: see `carry_out_plan`."""
    say = partial(print, flush=True) if os.environ['LOCAL_RANK'] == '0' else lambda _: None
    try:
        return carry_out_plan(cfg, 'cpu' if get_device() == 'cpu' else 'cuda', say)
    except ValueError as error:
        sys.exit(str(error))
