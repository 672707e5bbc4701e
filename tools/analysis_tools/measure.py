"""Peak memory and seconds of one training step of configs that share their data, and images predicted per second.

Steps and predictions are timed in turns. Seconds of an epoch are those of its steps: loading of data is not in them.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table

from man_mm.analysis.step import TrainStep, first_batch, predict_seconds, step_peak_bytes, step_seconds
from man_mm.compat import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files; the first one is the reference of all ratios')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--batch', type=int, help='images of a step; default: the batch size of the first config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of every config')
    parser.add_argument('--rounds', type=int, default=5, help='timed steps of each config')
    parser.add_argument('--json', help='file to write the rows to')
    return parser.parse_args()


def measure(configs: list[str], loaded: list[Config], device: str, rounds: int) -> list[dict[str, object]]:
    """Return a row per config: `config`, `peak_mib`, `step_s` (median), `epoch_s`, `predict_images_per_s`."""
    batch, batches_per_epoch = first_batch(loaded[0])
    steps, peaks = [], []
    for cfg in loaded:
        steps.append(TrainStep(cfg, device))
        peaks.append(step_peak_bytes(steps[-1], batch))
    trained = step_seconds(steps, batch, rounds)
    with torch.no_grad():
        predicted = predict_seconds(steps, batch, rounds)
    num_images = loaded[0].train_dataloader.batch_size
    return [
        dict(
            config=config,
            batch=num_images,
            peak_mib=peak / 2**20,
            step_s=step,
            epoch_s=step * batches_per_epoch,
            predict_images_per_s=num_images / predict,
        )
        for config, peak, step, predict in zip(configs, peaks, trained, predicted, strict=True)
    ]


def main() -> None:
    args = parse_args()
    loaded = [read_config(config) for config in args.configs]
    for cfg in loaded:
        cfg.merge_from_dict(args.cfg_options or {})
        cfg.train_dataloader.batch_size = args.batch or cfg.train_dataloader.batch_size
    rows = measure(args.configs, loaded, args.device, args.rounds)
    table = Table('config', 'peak MiB', 'ratio', 's / step', 'ratio', 's / epoch', 'predicted images / s')
    table.columns[0].overflow = 'fold'
    for column in table.columns[1:]:
        column.justify = 'right'
    for row in rows:
        ratios = (row[key] / rows[0][key] for key in ('peak_mib', 'step_s'))
        memory, time = (f'{ratio:.2f}' for ratio in ratios)
        table.add_row(
            Path(row['config']).stem,
            f'{row["peak_mib"]:.1f}',
            memory,
            f'{row["step_s"]:.3f}',
            time,
            f'{row["epoch_s"]:.0f}',
            f'{row["predict_images_per_s"]:.0f}',
        )
    Console().print(table)
    if args.json:
        device = torch.cuda.get_device_name(args.device) if args.device != 'cpu' else platform.machine()
        report = dict(device=f'{args.device} ({device})', torch=torch.__version__, rows=rows)
        Path(args.json).write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
