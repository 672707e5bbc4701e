"""Print, or draw, how a config's backbone is cut: a row per module. Needs no data and no weights."""

import argparse
import sys
from pathlib import Path

from draw_partition import draw_partition
from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from man_mm.analysis.module_rows import ModuleRow, module_rows
from man_mm.analysis.planner import carry_out_plan
from man_mm.analysis.step import build_model
from man_mm.local import find_local_backbone
from man_mm.readout import Readout, build_readout, readout_of
from man_mm.runs.compat import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file path')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config settings: key=value')
    parser.add_argument('--out', type=Path, help='picture to draw')
    return parser.parse_args()


def as_table(rows: list[ModuleRow], title: str) -> Table:
    """Lay out the rows, with a line of totals."""
    table = Table('module', 'units', 'stage', 'parameters', 'auxiliary', 'reads', 'writes', title=title)
    for column in table.columns[3:5]:
        column.justify = 'right'
    for row in rows:
        units = row.units[0] if len(row.units) == 1 else f'{row.units[0]} .. {row.units[-1]} ({len(row.units)})'
        counts = (f'{row.parameters:,}', as_count(row.auxiliary_parameters, row.fixed_parameters))
        table.add_row(str(row.module), units, ' '.join(row.stages), *counts, ' '.join(row.reads), ' '.join(row.writes))
    trained, own, fixed = (
        sum(getattr(row, key) for row in rows) for key in ('parameters', 'auxiliary_parameters', 'fixed_parameters')
    )
    table.add_section()
    table.add_row('all', f'{sum(len(row.units) for row in rows)} units', '', f'{trained:,}', as_count(own, fixed))
    return table


def as_count(trained: int, fixed: int) -> str:
    """Parameters that train, and those that do not, where there are any."""
    return f'{trained:,} + {fixed:,} fixed' if fixed else f'{trained:,}'


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    try:
        cfg, _ = carry_out_plan(cfg)
        model = build_model(cfg)
        backbone = find_local_backbone(model)
        if backbone.num_modules > 1 and readout_of(cfg) is not Readout:
            backbone.unread = build_readout(model, backbone.num_modules).unread_taps(backbone)
    except ValueError as error:
        sys.exit(f'{args.config}: {error}')
    title = f'{type(backbone.backbone).__name__}, K = {backbone.num_modules}'
    console = Console(width=None if sys.stdout.isatty() else 140)  # a file or pipe has no width to fit
    rows = module_rows(backbone)
    console.print(as_table(rows, title))
    for note in backbone.partition.notes:
        console.print(f'note: {note}')
    if args.out:
        taps = {
            unit.name: unit.tap
            for unit in backbone.unrolled.units
            if unit.tap in backbone.banked and unit.tap not in backbone.unread
        }
        auxiliary = type(backbone.auxiliaries[0]).__name__ if backbone.num_modules > 1 else ''
        draw_partition(rows, taps, auxiliary, title, args.out)


if __name__ == '__main__':
    main()
