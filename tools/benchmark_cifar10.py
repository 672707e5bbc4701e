"""Train every method on CIFAR-10 by a short protocol, each at its own best learning rate, several seeds.

The rates are compared on images that are held out from training (`val`), for one seed; the best one of each method is
then trained with every seed and tested once, after the last epoch. With `--ablate`, variants of MAN are trained
instead, all at one rate, with every seed, and compared on the held-out images. A run that is done is not repeated, an
interrupted one is resumed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from man_mm.analysis.scalars import read_scalars

ROOT = Path(__file__).resolve().parents[1]
SHORT = ROOT / 'configs/_base_/cifar10_short.py'
METHODS = {
    'bp': 'bp/resnet32_bp_cifar10.py',
    'man': 'man/resnet32_man_k16_cifar10.py',
    'man-nobank': 'man/resnet32_man-nobank_k16_cifar10.py',
    'dgl': 'dgl/resnet32_dgl_k16_cifar10.py',
    'predsim': 'predsim/resnet32_predsim_k16_cifar10.py',
    'infopro': 'infopro/resnet32_infopro_k16_cifar10.py',
    'infopro-contrast': 'infopro/resnet32_infopro-contrast_k16_cifar10.py',
    'auglocal': 'auglocal/resnet32_auglocal_k16_cifar10.py',
}
VARIANTS = {
    'man': {},
    'man-no-bank': {'bank_vectors': False},
    'man-no-units': {'units_per_stage': 0},
    'man-no-bank-no-units': {'bank_vectors': False, 'units_per_stage': 0},
    'man-2-units': {'units_per_stage': 2},
    'man-2-units-no-bank': {'units_per_stage': 2, 'bank_vectors': False},
    'man-no-cut-stage': {'cut_stage': False},
    'man-2-units-no-cut-stage': {'units_per_stage': 2, 'cut_stage': False},
    'man-no-bank-no-cut-stage': {'bank_vectors': False, 'cut_stage': False},
    'man-copy': {'init': 'copy'},
}
"""MAN by its name, and what an ablation changes in `model.backbone.auxiliary`."""


@dataclass(frozen=True)
class Run:
    """One training: a method or a variant at a learning rate, from a seed, tested on the images of `split`."""

    method: str
    lr: float
    seed: int
    split: str

    @property
    def name(self) -> str:
        return f'{self.method}_lr{self.lr:g}_seed{self.seed}_{self.split}'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--methods', nargs='+', choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument('--ablate', nargs='*', choices=sorted(VARIANTS), help='variants of MAN; all if none is named')
    parser.add_argument('--ablation-lr', type=float, default=0.1, help='learning rate of the variants')
    parser.add_argument('--lrs', nargs='+', type=float, default=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--grid-epochs', type=int, default=3, help='epochs of a run that compares learning rates')
    parser.add_argument('--epochs', type=int, default=6, help='epochs of a run that is tested')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, each on one thread')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/cifar10_short'))
    parser.add_argument('--cfg-options', nargs='*', default=[], help='handed to every run, e.g. for another device')
    parser.add_argument('--json', type=Path, help='file to write the rows to')
    return parser.parse_args()


def write_config(run: Run, epochs: int, path: Path) -> None:
    """Write the method's shipped config with the short protocol laid over it."""
    cfg = Config.fromfile(ROOT / 'configs' / METHODS['man' if run.method in VARIANTS else run.method])
    cfg.merge_from_dict(Config.fromfile(SHORT).to_dict())
    if cfg.model.backbone.type == 'man_mm.LocalBackbone':
        cfg.model.backbone.probe_size = (16, 16)
        cfg.model.backbone.auxiliary.update(VARIANTS.get(run.method, {}))
    if run.split == 'test':
        cfg.val_dataloader = cfg.test_dataloader
    cfg.optim_wrapper.optimizer.lr = run.lr
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].update(T_max=epochs, end=epochs)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.randomness = dict(seed=run.seed)
    cfg.dump(path)


def top1(folder: Path, epochs: int) -> float | None:
    """Accuracy in % after the last epoch of a run that is done, else None."""
    try:
        _, validations = read_scalars(folder)
    except FileNotFoundError:
        return None
    return next((round(row['accuracy/top1'], 2) for row in validations if row['step'] == epochs), None)


def folder_of(run: Run, epochs: int, args: argparse.Namespace) -> Path:
    """Where a run keeps its logs and checkpoints."""
    return args.work_dir / f'{run.name}_{epochs}epochs'


def train(run: Run, epochs: int, args: argparse.Namespace) -> float:
    """Make a run, unless it is done; return its accuracy in %."""
    folder = folder_of(run, epochs, args)
    done = top1(folder, epochs)
    if done is not None:
        return done
    config = str(folder / 'config.py')
    command = [sys.executable, str(ROOT / 'tools/train.py'), config, '--work-dir', str(folder), '--resume']
    if args.cfg_options:
        command += ['--cfg-options', *args.cfg_options]
    with (folder / 'output.txt').open('a') as output:
        env = {**os.environ, 'OMP_NUM_THREADS': '1'}
        code = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=env, check=False
        ).returncode
    done = top1(folder, epochs)
    if code or done is None:
        raise RuntimeError(f'{run.name} ended with exit status {code}: see {folder / "output.txt"}.')
    print(f'{run.name}: {done:.2f}', flush=True)
    return done


def train_all(runs: Iterable[Run], epochs: int, args: argparse.Namespace) -> dict[Run, float]:
    """Make runs, `--jobs` at a time."""
    runs = list(runs)
    for run in runs:  # before the threads: MMEngine reads one config at a time
        folder = folder_of(run, epochs, args)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(run, epochs, folder / 'config.py')
    with ThreadPoolExecutor(args.jobs) as pool:
        return dict(zip(runs, pool.map(lambda run: train(run, epochs, args), runs), strict=True))


def compare(args: argparse.Namespace) -> list[dict[str, object]]:
    """Choose each method's learning rate, train it with every seed; a row per method."""
    grid = train_all(
        (Run(m, lr, args.seeds[0], 'val') for lr in args.lrs for m in args.methods), args.grid_epochs, args
    )
    best = {m: max(args.lrs, key=lambda lr, m=m: grid[Run(m, lr, args.seeds[0], 'val')]) for m in args.methods}
    tested = train_all((Run(m, best[m], s, 'test') for s in args.seeds for m in args.methods), args.epochs, args)
    return [
        dict(
            method=m,
            config=f'configs/{METHODS[m]}',
            val_top1_by_lr={f'{lr:g}': grid[Run(m, lr, args.seeds[0], 'val')] for lr in args.lrs},
            lr=best[m],
            test_top1_by_seed={str(s): tested[Run(m, best[m], s, 'test')] for s in args.seeds},
        )
        for m in args.methods
    ]


def ablate(args: argparse.Namespace) -> list[dict[str, object]]:
    """Train every variant with every seed; a row per variant."""
    variants = args.ablate or list(VARIANTS)
    runs = [Run(v, args.ablation_lr, s, 'val') for s in args.seeds for v in variants]
    found = train_all(runs, args.epochs, args)
    return [
        dict(
            method=v,
            changed=VARIANTS[v],
            lr=args.ablation_lr,
            val_top1_by_seed={str(run.seed): top for run, top in found.items() if run.method == v},
        )
        for v in variants
    ]


def main() -> None:
    args = parse_args()
    args.work_dir = args.work_dir.resolve()
    split, rows = ('test', compare(args)) if args.ablate is None else ('val', ablate(args))
    table = Table('method', 'lr', f'{split} top-1 %', 'std', 'seeds')
    for row in rows:
        values = list(row[f'{split}_top1_by_seed'].values())
        spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else '-'
        table.add_row(row['method'], f'{row["lr"]:g}', f'{statistics.mean(values):.2f}', spread, str(len(values)))
    Console().print(table)
    if args.json:
        protocol = dict(data='CIFAR-10, 16 px', grid_epochs=args.grid_epochs, epochs=args.epochs, seeds=args.seeds)
        report = dict(
            device=f'cpu ({platform.machine()}), 1 thread', torch=torch.__version__, protocol=protocol, rows=rows
        )
        args.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
