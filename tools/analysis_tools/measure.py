"""Peak memory, by kind, and seconds of one training step of configs that share their data.

Steps, and predictions of images, are timed in turns. Seconds of an epoch are those of its steps, without loading of
data.
With --estimate nothing is computed: the same bytes from tensors without values, for any batch and size, on any machine.
"""

import argparse
import json
import platform
import re
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from man_mm.analysis.measure import estimate_configs, measure_configs
from man_mm.analysis.memory import KINDS
from man_mm.analysis.planner import carry_out_plan
from man_mm.runs.compat import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files; the first one is the reference of all ratios')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--batch', type=int, help='images of a step; default: the batch size of the first config')
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        help='height and width in px, or one number for both, of noise; default: data of the first config',
    )
    parser.add_argument('--estimate', action='store_true', help='memory only, from tensors without values')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of every config')
    parser.add_argument('--rounds', type=int, default=5, help='timed steps of each config; 0 measures memory only')
    parser.add_argument('--json', type=Path, help='file to write the rows to; see man_mm/analysis/measure.py')
    args = parser.parse_args()
    if not re.fullmatch(r'cpu|cuda(:\d+)?', args.device):
        parser.error(f'--device {args.device} must be cpu, cuda or cuda:N')
    if args.device != 'cpu' and not args.estimate and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch finds no GPU here; --estimate needs none')
    if args.rounds < 0:
        parser.error(f'--rounds {args.rounds} must be 0 or more')
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 1):
        parser.error(f'--size {" ".join(map(str, args.size))} must be one or two numbers of px')
    if args.batch is not None and args.batch < 1:
        parser.error(f'--batch {args.batch} must be 1 or more')
    return args


def main() -> None:
    args = parse_args()
    loaded = [(config, read_config(config)) for config in args.configs]
    for _, cfg in loaded:
        cfg.merge_from_dict(args.cfg_options or {})
    batch = args.batch or loaded[0][1].train_dataloader.batch_size
    for _, cfg in loaded:
        cfg.train_dataloader.batch_size = batch
    size = args.size and (args.size[0], args.size[-1])
    MMLogger.get_instance('measure', logger_name='measure', log_level='ERROR')  # else every weight is a line
    try:
        loaded = [(name, carry_out_plan(cfg, args.device)[0]) for name, cfg in loaded]
        if args.estimate:
            rows = estimate_configs(loaded, args.device, size)
        else:
            rows = measure_configs(loaded, args.device, args.rounds, size)
    except ValueError as error:
        sys.exit(str(error))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(memory_table(rows))
    if 'step_s' in rows[0]:
        console.print(time_table(rows))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(dict(**environment(args), rows=rows), indent=1) + '\n')


def environment(args: argparse.Namespace) -> dict[str, str]:
    """What the numbers were made on."""
    if args.estimate:
        how = 'estimate'
    else:
        how = torch.cuda.get_device_name(args.device) if args.device != 'cpu' else platform.machine()
    return dict(device=f'{args.device} ({how})', torch=torch.__version__)


def memory_table(rows: list[dict]) -> Table:
    table = _table('config', 'peak MiB', 'ratio', *KINDS, 'GFLOP')
    for row in rows:
        parts = (f'{row[f"{kind}_mib"]:.0f}' for kind in KINDS)
        ratio = row['peak_mib'] / rows[0]['peak_mib']
        table.add_row(
            Path(row['config']).stem, f'{row["peak_mib"]:.1f}', f'{ratio:.2f}', *parts, f'{row["gflops"]:.0f}'
        )
    return table


def time_table(rows: list[dict]) -> Table:
    table = _table('config', 's / step', 'ratio', 's / epoch', 'predicted images / s')
    for row in rows:
        epoch = f'{row["epoch_s"]:.0f}' if 'epoch_s' in row else '-'
        rate = f'{row["predict_images_per_s"]:.1f}'
        table.add_row(Path(row['config']).stem, f'{row["step_s"]:.3f}', f'{row["step_ratio"]:.2f}', epoch, rate)
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first)
    table.columns[0].overflow = 'fold'
    for number in numbers:
        table.add_column(number, justify='right')
    return table


if __name__ == '__main__':
    main()
