"""Train a model: upstream's command line, for local learning and for plain back-propagation.

With --local-learning K a plain config trains by local learning in K modules; --cfg-options then mean the plain one.
"""

import argparse
import sys
from pathlib import Path

from common import add_common_arguments, given_config, plan_modules, refuse_different_configs, set_up
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing.errors import record

from man_mm.config import enable_amp
from man_mm.engine.log_processor import LocalLogProcessor
from man_mm.localizing import Keys, choose_keys
from man_mm.runs.missing_data import missing_data
from man_mm.runs.misspelt_keys import unmatched_custom_keys
from man_mm.versions import add_note


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    add_common_arguments(parser)
    parser.add_argument(
        '--local-learning', type=int, metavar='K', help='train a plain config by local learning, in K modules'
    )
    parser.add_argument('--lean', action='store_true', help='with --local-learning: the form that saves most memory')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the lr by the total batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint; without a path, from the latest one in the work folder',
    )
    args = parser.parse_args()
    if args.lean and args.local_learning is None:
        parser.error('--lean is a form of local learning: it needs --local-learning K')
    return args


def enable_auto_scale_lr(cfg: Config) -> None:
    """Let the runner scale the lr from the batch that it was chosen for to the total batch of this run."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        sys.exit('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, the batch that its lr fits.')
    cfg.auto_scale_lr.enable = True


def choose_local_learning(cfg: Config, args: argparse.Namespace) -> Keys:
    """What `--local-learning` adds to a plain config. Its run gets a folder beside that of plain training."""
    try:
        keys = choose_keys(cfg, args.local_learning, args.lean)
    except ValueError as error:
        sys.exit(f'--local-learning {args.local_learning}: {error}')
    except TypeError as error:  # an unknown key of a part
        add_note(
            error, '--cfg-options mean the plain config; tools/localize.py writes a file with the keys that are added.'
        )
        raise
    if args.work_dir is None and cfg.get('work_dir') is None:
        form = 'manlean' if args.lean else 'man'
        args.work_dir = f'./work_dirs/{Path(args.config).stem}_{form}_k{args.local_learning}'
    return keys


def main() -> None:
    args = parse_args()
    cfg = given_config(args)
    if args.amp:
        try:
            enable_amp(cfg)
        except ValueError as error:
            sys.exit(f'--amp: {error}')
    keys = None if args.local_learning is None else choose_local_learning(cfg, args)
    cfg = set_up(cfg if keys is None else keys.on(cfg), args)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    missing = missing_data(cfg, ('train_dataloader', 'val_dataloader'))
    if missing:
        sys.exit(missing)
    refuse_different_configs(cfg)
    cfg, plan = plan_modules(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.log_processor = LocalLogProcessor.of(runner.log_processor)  # tells the memory of back-propagation too
    if plan is not None:
        runner.logger.info(f'plan: {plan}')
    if keys is not None:
        runner.logger.info(f'local learning: {keys}')
    for sentence in unmatched_custom_keys(cfg.optim_wrapper, runner.model):
        runner.logger.warning(sentence)
    runner.train()


if __name__ == '__main__':
    record(main)()  # torchrun then ends in a summary with the error of the rank that failed first
