"""Choose K, cuts and what is recomputed, so that a training step of a config fits in a memory at the least time.

Nothing is computed: bytes come from tensors without values, and floating-point operations, which include what is
recomputed, stand for time. On CUDA, leave room for the context, the workspaces of kernels and fragmentation.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from man_mm.analysis.memory import KINDS
from man_mm.analysis.planner import Estimate, Plan, make_plan
from man_mm.runs.compat import read_config

MIB = 2**20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file with a man_mm.LocalBackbone; its num_modules does not matter')
    parser.add_argument('--budget', help="memory of a step, e.g. 6GiB; default: the config's plan.memory")
    parser.add_argument('--batch', type=int, help='images of a step; default: the batch size of the config')
    parser.add_argument(
        '--size', type=int, nargs='+', help="height and width in px, or one number; default: the backbone's probe_size"
    )
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'], help='whose losses the step takes')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config settings: key=value')
    parser.add_argument('--json', type=Path, help='file to write the estimates to')
    parser.add_argument('--out', type=Path, help='config file to write, with the chosen setting in it')
    args = parser.parse_args()
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 1):
        parser.error(f'--size {" ".join(map(str, args.size))} must be one or two numbers of px')
    if args.batch is not None and args.batch < 1:
        parser.error(f'--batch {args.batch} must be 1 or more')
    return args


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    if args.batch is not None:
        cfg.train_dataloader.batch_size = args.batch
    size = args.size and (args.size[0], args.size[-1])
    MMLogger.get_instance('plan', logger_name='plan', log_level='ERROR')  # else every candidate has its warnings
    try:
        plan = make_plan(cfg, args.budget, size, args.device, _progress())
    except ValueError as error:
        sys.exit(str(error))
    Console(width=None if sys.stdout.isatty() else 150).print(as_table(plan))
    if args.json:
        args.json.write_text(json.dumps(as_json(plan, args), indent=1) + '\n')
    if plan.cfg is None:
        sys.exit(str(plan))
    print(plan)
    if args.out:
        plan.cfg.dump(args.out)


def _progress():
    """Prints a line an estimate, with the seconds since the last one."""
    last = time.perf_counter()

    def report(estimate: Estimate) -> None:
        nonlocal last
        now = time.perf_counter()
        print(
            f'{estimate.setting}: {estimate.peak_bytes / MIB:.1f} MiB, {now - last:.1f} s', file=sys.stderr, flush=True
        )
        last = now

    return report


def as_table(plan: Plan) -> Table:
    """Lay out the estimates, those with the fewest operations first."""
    table = Table('setting')
    for title in ('peak MiB', 'of BP', *KINDS, 'GFLOP', 'of BP', 'fits'):
        table.add_column(title, justify='right')
    bp = plan.estimates[0]
    for row in sorted(plan.estimates, key=lambda estimate: estimate.flops):
        chosen = plan.chosen is not None and row.setting == plan.chosen.setting
        table.add_row(
            str(row.setting),
            f'{row.peak_bytes / MIB:.1f}',
            f'{row.peak_bytes / bp.peak_bytes:.2f}',
            *(f'{row.split[kind] / MIB:.0f}' for kind in KINDS),
            f'{row.flops / 1e9:.0f}',
            f'{row.flops / bp.flops:.2f}',
            'chosen' if chosen else 'yes' if row.peak_bytes <= plan.budget else 'no',
            style='bold' if chosen else None,
        )
    return table


def as_json(plan: Plan, args: argparse.Namespace) -> dict:
    """The same as plain data, in the order of the search."""
    rows = [
        dict(
            **vars(row.setting),
            peak_mib=round(row.peak_bytes / MIB, 3),
            **{f'{kind}_mib': round(row.split[kind] / MIB, 3) for kind in KINDS},
            gflops=round(row.flops / 1e9, 3),
            fits=row.peak_bytes <= plan.budget,
            chosen=row is plan.chosen,
        )
        for row in plan.estimates
    ]
    how = dict(device=f'{args.device} (estimate)', torch=torch.__version__)
    return dict(**how, config=args.config, batch=plan.batch, size=plan.size, budget_bytes=plan.budget, rows=rows)


if __name__ == '__main__':
    main()
