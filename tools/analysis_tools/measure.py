"""Peak memory and seconds of one training step of configs that share their data; steps are timed in turns."""

import argparse
import json
import platform
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from man_mm.analysis.step import TrainStep, first_batch, step_peak_bytes, step_seconds


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files; the first one is the reference of all ratios')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--rounds', type=int, default=5, help='timed steps of each config')
    parser.add_argument('--json', help='file to write the rows to')
    return parser.parse_args()


def measure(configs: list[str], device: str, rounds: int) -> list[dict[str, object]]:
    """Return a row per config: `config`, `peak_mib`, `step_s` (median)."""
    loaded = [Config.fromfile(config) for config in configs]
    batch = first_batch(loaded[0])
    steps, peaks = [], []
    for cfg in loaded:
        steps.append(TrainStep(cfg, device))
        peaks.append(step_peak_bytes(steps[-1], batch))
    seconds = step_seconds(steps, batch, rounds)
    return [
        dict(config=config, peak_mib=peak / 2**20, step_s=taken)
        for config, peak, taken in zip(configs, peaks, seconds, strict=True)
    ]


def main() -> None:
    args = parse_args()
    rows = measure(args.configs, args.device, args.rounds)
    table = Table('config', 'peak MiB', 'ratio', 's / step', 'ratio')
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        ratios = (row[key] / rows[0][key] for key in ('peak_mib', 'step_s'))
        memory, time = (f'{ratio:.2f}' for ratio in ratios)
        table.add_row(Path(row['config']).stem, f'{row["peak_mib"]:.1f}', memory, f'{row["step_s"]:.3f}', time)
    Console().print(table)
    if args.json:
        device = torch.cuda.get_device_name(args.device) if args.device != 'cpu' else platform.machine()
        report = dict(device=f'{args.device} ({device})', torch=torch.__version__, rows=rows)
        Path(args.json).write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
