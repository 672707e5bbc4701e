"""Which loss trains which parameter: one training step, in which every gradient is noted with the loss it came from.

Needs no data and no weights. The exit status is 1 if a loss reaches a module, or an auxiliary, that it should not.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from man_mm.analysis.audit import MAIN, AuditRow, audit_step
from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.estimate import is_mixed
from man_mm.analysis.planner import carry_out_plan
from man_mm.analysis.step import TrainStep
from man_mm.runs.compat import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--batch', type=int, default=2, help='images of noise')
    parser.add_argument('--size', type=int, default=128, help='their height and width in px')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config settings: key=value')
    parser.add_argument('--json', type=Path, help='file to write the rows to; see man_mm/analysis/audit.py')
    args = parser.parse_args()
    for name in ('batch', 'size'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)} must be 1 or more')
    return args


def as_table(rows: list[AuditRow], title: str) -> Table:
    """A line a part: its parameter tensors, and the losses that reached them."""
    table = Table('part', 'tensors', 'trained by the loss of', 'trained by none', title=title)
    table.columns[1].justify = 'right'
    for row in rows:
        count = f'{row.parameters} ({row.fixed} fixed)' if row.fixed else f'{row.parameters}'
        idle = ' '.join(row.untrained[:2]) + (' ..' if len(row.untrained) > 2 else '')
        table.add_row(row.part, count, losses_in_words(row), idle)
    return table


def losses_in_words(row: AuditRow) -> str:
    """E.g. `modules 0 to 2 (46 each), the model (48)`; without numbers where a loss reaches all that trains."""
    trainable = row.parameters - row.fixed
    said = []
    for count in dict.fromkeys(row.trained_by.values()):
        losses = [loss for loss, number in row.trained_by.items() if number == count]
        parts = [*_ranges(loss for loss in losses if loss != MAIN), *(['the model'] if MAIN in losses else [])]
        said.append(' and '.join(parts) + (f' ({count} of them)' if count < trainable else ''))
    return ', '.join(said) or '-'


def _ranges(modules: Iterable[int | str]) -> list[str]:
    """`0, 1, 2, 5` as `modules 0 to 2`, `module 5`."""
    runs = itertools.groupby(enumerate(sorted(int(m) for m in modules)), key=lambda pair: pair[1] - pair[0])
    found = [[module for _, module in run] for _, run in runs]
    return [f'module {run[0]}' if len(run) == 1 else f'modules {run[0]} to {run[-1]}' for run in found]


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('audit', logger_name='audit', log_level='ERROR')  # else every weight is a line
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    try:
        cfg, _ = carry_out_plan(cfg)
        if args.device == 'cpu' and is_mixed(cfg):
            sys.exit(f'{args.config} trains in mixed precision, which MMEngine has on a GPU only: give --device cuda.')
        step = TrainStep(cfg, args.device)
        rows = audit_step(step, synthetic_batch(cfg, args.batch, (args.size, args.size)))
    except ValueError as error:
        sys.exit(f'{args.config}: {error}')
    Console(width=None if sys.stdout.isatty() else 160).print(as_table(rows, args.config))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + '\n')
    foreign = {name: row.part for row in rows for name in row.foreign}
    for name, part in itertools.islice(foreign.items(), 5):
        print(f'{name} of {part} is trained by a loss from which it should be isolated.')
    if foreign:
        sys.exit(1)
    print('Every module is trained by its own loss alone.')


if __name__ == '__main__':
    main()
