"""Choose K, cuts and what is recomputed, so that a training step of a config fits in a memory at the least time.

With --largest it is the other way round: how many images fit in a memory, with back-propagation, plain and recomputed,
and with every K. A plain config is planned with the local learning that --local-learning of train.py chooses for it.

Nothing is computed: bytes come from tensors without values, and floating-point operations, which include what is
recomputed, stand for time. On CUDA, leave room for the context, the workspaces of kernels and fragmentation.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from man_mm.analysis.memory import KINDS
from man_mm.analysis.planner import Estimate, Largest, Plan, largest_batches, local_attribute, make_plan
from man_mm.config import enable_amp
from man_mm.localizing import choose_keys
from man_mm.runs.compat import read_config

MIB = 2**20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or name of an installed one; its num_modules does not matter')
    parser.add_argument(
        '--budget',
        help="memory of a step, e.g. 6GiB, with --largest also 11GiB,24GiB; default: the config's plan.memory",
    )
    parser.add_argument('--largest', action='store_true', help='find the largest batches that fit')
    parser.add_argument('--lean', action='store_true', help='of a plain config: the form that saves most memory')
    parser.add_argument('--amp', action='store_true', help='with automatic mixed precision')
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
    if args.largest:
        wrong = [option for option in ('batch', 'out') if getattr(args, option) is not None]
        if wrong:
            parser.error(f'--largest looks for a batch, and chooses no setting: leave out --{" and --".join(wrong)}')
    elif args.budget and ',' in args.budget:
        parser.error(f'--budget {args.budget} must be one amount without --largest')
    if args.size is not None:
        args.size = (args.size[0], args.size[-1])
    return args


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    missing = [key for key in ('model', 'optim_wrapper', 'train_dataloader') if not cfg.get(key)]
    if missing:
        sys.exit(f'{args.config} has no {" and no ".join(missing)}: a plan is made for a config that trains')
    if args.budget is None and not cfg.get('plan'):
        sys.exit(f'{args.config} has no plan.memory: give the memory of a step, e.g. --budget 11GiB')
    if args.batch is not None:
        cfg.train_dataloader.batch_size = args.batch
    MMLogger.get_instance('plan', logger_name='plan', log_level='ERROR')  # else every candidate has its warnings
    warnings.filterwarnings('ignore', '.*use_reentrant')  # of upstream's with_cp, at every step
    try:
        (show_batches if args.largest else show_plan)(prepared(cfg, args), args)
    except ValueError as error:
        sys.exit(str(error))


def prepared(cfg: Config, args: argparse.Namespace) -> Config:
    """The config in the precision that is asked for, with a LocalBackbone."""
    if args.amp:
        enable_amp(cfg)
    if local_attribute(cfg) is None:
        keys = choose_keys(cfg, 2, args.lean)  # of any K but 1
        print(f'local learning: {keys.form.said}', file=sys.stderr)
        return replace(keys, optim_wrapper={}, hooks=[]).on(cfg)  # eager steps, recomputation and K are planned
    if args.lean:
        raise ValueError(f'--lean chooses for a plain config, and {args.config} has a LocalBackbone: leave it out')
    return cfg


def show_plan(cfg: Config, args: argparse.Namespace) -> None:
    """Plan, print and write."""
    plan = make_plan(cfg, args.budget, args.size, args.device, _progress())
    _console().print(estimates_as_table(plan))
    write_json(args, batch=plan.batch, size=plan.size, budget_bytes=plan.budget, rows=estimates_as_json(plan))
    if plan.cfg is None:
        raise ValueError(str(plan))
    print(plan)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        plan.cfg.dump(args.out)


def show_batches(cfg: Config, args: argparse.Namespace) -> None:
    """Find the largest batches, print them, and write each setting's as soon as it is known."""
    budgets = args.budget.split(',') if args.budget else [None]
    rows: list[Largest] = []
    for row in largest_batches(cfg, budgets, args.size, args.device, _progress()):
        rows.append(row)
        size = args.size or cfg[f'model.{local_attribute(cfg)}.probe_size']
        write_json(args, size=size, rows=batches_as_json(rows))
    _console().print(batches_as_table(rows))


def write_json(args: argparse.Namespace, **found: Any) -> None:
    """Write what was found, with how, if a file was named."""
    if args.json:
        how = dict(device=f'{args.device} (estimate)', torch=torch.__version__, amp=args.amp, lean=args.lean)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(dict(**how, config=args.config, **found), indent=1) + '\n')


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 150)


def _progress():
    """Prints a line an estimate, with the seconds since the last one."""
    last = time.perf_counter()

    def report(estimate: Estimate) -> None:
        nonlocal last
        now = time.perf_counter()
        step = f'{estimate.setting}, batch {estimate.images}'
        print(f'{step}: {estimate.peak_bytes / MIB:.1f} MiB, {now - last:.1f} s', file=sys.stderr, flush=True)
        last = now

    return report


def estimates_as_table(plan: Plan) -> Table:
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


def estimates_as_json(plan: Plan) -> list[dict]:
    """The same as plain data, in the order of the search."""
    return [
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


def batches_as_table(rows: Sequence[Largest]) -> Table:
    """A line a setting, a column a memory."""
    table = Table('setting', *(f'images in {_said(budget)}' for budget in rows[0].images))
    for title in ('GFLOP an image', 'of BP'):
        table.add_column(title, justify='right')
    for row in rows:
        batches = (f'{num} ({row.peak_bytes[budget] / MIB:.0f} MiB)' for budget, num in row.images.items())
        table.add_row(str(row.setting), *batches, f'{row.flops / 1e9:.1f}', f'{row.flops / rows[0].flops:.2f}')
    return table


def _said(budget: int) -> str:
    """An amount of memory with a unit."""
    if budget < MIB:
        return f'{budget} B'
    return f'{budget / 2**30:.4g} GiB' if budget >= 2**30 else f'{budget / MIB:.4g} MiB'


def batches_as_json(rows: Sequence[Largest]) -> list[dict]:
    """The same as plain data."""
    return [
        dict(
            **vars(row.setting),
            gflops_an_image=round(row.flops / 1e9, 3),
            batches=[
                dict(budget_bytes=budget, images=num, peak_mib=round(row.peak_bytes[budget] / MIB, 3))
                for budget, num in row.images.items()
            ],
        )
        for row in rows
    ]


if __name__ == '__main__':
    main()
