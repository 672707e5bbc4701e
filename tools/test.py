"""Test a model on `test_dataloader`: upstream's command line. The auxiliaries take no part."""

import argparse
import sys

from common import add_common_arguments, load_config
from host_libraries import host_library_of
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from man_mm.analysis.planner import without_plan
from man_mm.runs.missing_data import missing_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a model')
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file path')
    parser.add_argument('--out', help='pickle file for the predictions, for offline evaluation')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='folder for painted predictions (detection: below work_dir/timestamp), or for predicted images (MMagic)',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between shown images')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: tta_model, tta_pipeline')
    args = parser.parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: must end in .pkl or .pickle')
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    if cfg.get('plan') is not None:
        cfg = without_plan(cfg)
    cfg.load_from = args.checkpoint
    missing = missing_data(cfg, ('test_dataloader',))
    if missing:
        sys.exit(missing)
    host = host_library_of(cfg)
    if args.show or args.show_dir:
        host.show(args)
    if args.tta:
        host.augment_at_test()
    metric = host.dump(args.out) if args.out else None
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    host.watch(runner)
    if metric is not None:
        runner.test_evaluator.metrics.append(metric)
    runner.test()


if __name__ == '__main__':
    main()
