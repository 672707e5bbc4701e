"""A comparison of methods by a short protocol: each at its own best learning rate, several seeds.

The rates are compared on data that is held out from training (`val`), for one seed, and beyond the ends of the grid
while the best one is at an end; the best one of each method is then trained with every seed and tested once, at the
end. With `--ablate`, variants are trained instead, all at one rate, with every seed, and compared on the held-out
data. A run that is done is not repeated, an interrupted one is resumed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from rich.console import Console
from rich.table import Table

from man_mm.analysis.scalars import read_scalars

__all__ = ['ROOT', 'Benchmark', 'Protocol', 'Run', 'next_rates']

ROOT = Path(__file__).resolve().parents[1]
MOST_RATES = 9


@dataclass(frozen=True)
class Run:
    """One training: a method or a variant at a learning rate, from a seed, scored on the data of `split`.

    Args:
        length: Epochs, or iterations where the protocol counts these.
    """

    method: str
    lr: float
    seed: int
    split: str
    length: int

    def name(self, unit: str) -> str:
        return f'{self.method}_lr{self.lr:g}_seed{self.seed}_{self.split}_{self.length}{unit}'


@dataclass(frozen=True)
class Protocol:
    """What a benchmark trains, and how.

    Args:
        data: Name of the data set, with its size.
        metric: Key of the score in a validation's log; higher is better.
        unit: `epochs` or `iters`, in which lengths are counted.
        configs: Config file below `configs/` by method.
        variants: By name, the method, or the config file below `configs/`, that it varies, and the settings of its
            `LocalBackbone` that it changes.
        prepare: `prepare(cfg, run)` lays the short protocol over a method's config.
        lrs: The grid of learning rates to begin with.
        grid_length: Length of a run that compares learning rates.
        length: Length of a run that is tested.
        seeds: Seeds of the runs that are tested; the first one is the grid's.
        ablation_lr: Learning rate of the variants.
        scale: What scores are multiplied by: 100 for a fraction of 1.
        also: Keys of further scores that the JSON tells.
    """

    data: str
    metric: str
    unit: str
    configs: Mapping[str, str]
    variants: Mapping[str, tuple[str, Mapping[str, Any]]]
    prepare: Callable[[Config, Run], None]
    lrs: tuple[float, ...]
    grid_length: int
    length: int
    seeds: tuple[int, ...]
    ablation_lr: float
    scale: float = 1
    also: tuple[str, ...] = ()


class Benchmark:
    """Runs a protocol from the command line.

    Args:
        protocol: What to run.
        description: For `--help`.
        work_dir: Default folder of the runs.
        parents: Parsers of options of the benchmark's own.
    """

    def __init__(
        self, protocol: Protocol, description: str, work_dir: str, parents: Sequence[argparse.ArgumentParser] = ()
    ) -> None:
        self.protocol = protocol
        self.args = _parse_args(protocol, description, work_dir, parents)
        self.args.work_dir = self.args.work_dir.resolve()

    def main(self) -> None:
        """Run, print a table, write the JSON."""
        split, rows = ('test', self.compare()) if self.args.ablate is None else ('val', self.ablate())
        table = Table('method', 'lr', f'{split} {self.protocol.metric}', 'std', 'seeds')
        for row in rows:
            values = list(row[f'{split}_by_seed'].values())
            spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else '-'
            table.add_row(row['method'], f'{row["lr"]:g}', f'{statistics.mean(values):.2f}', spread, str(len(values)))
        Console().print(table)
        if self.args.json:
            self._write(self._report(rows))

    def _write(self, report: dict[str, Any]) -> None:
        """Write the JSON. Rows of other methods, made by the same protocol, stay in it."""
        path, new = self.args.json, {row['method'] for row in report['rows']}
        if path.exists():
            old = json.loads(path.read_text())
            if old['protocol'] == report['protocol']:
                report['rows'] = [*(row for row in old['rows'] if row['method'] not in new), *report['rows']]
        path.write_text(json.dumps(report, indent=1) + '\n')

    def _report(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        p, args = self.protocol, self.args
        said = dict(data=p.data, metric=p.metric, unit=p.unit, grid_length=args.grid_length, length=args.length)
        if args.cfg_options:
            said['cfg_options'] = args.cfg_options
        name = torch.cuda.get_device_name() if get_device() == 'cuda' else f'{platform.machine()}, 1 thread'
        device = f'{get_device()} ({name})'
        return dict(device=device, torch=torch.__version__, protocol=dict(**said, seeds=args.seeds), rows=rows)

    def compare(self) -> list[dict[str, Any]]:
        """Choose each method's learning rate, unless there is but one; train with every seed. A row per method."""
        args = self.args
        grid = self.compare_rates() if len(args.lrs) > 1 else {m: {} for m in args.methods}
        best = {m: max(scores, key=scores.__getitem__, default=args.lrs[0]) for m, scores in grid.items()}
        tested = self.train_all(Run(m, best[m], s, 'test', args.length) for s in args.seeds for m in args.methods)
        return [
            dict(
                method=m,
                config=f'configs/{self.protocol.configs[m]}',
                val_by_lr={f'{lr:g}': grid[m][lr] for lr in sorted(grid[m])},
                lr=best[m],
                **self._by_seed({run: score for run, score in tested.items() if run.method == m}, 'test'),
            )
            for m in args.methods
        ]

    def compare_rates(self) -> dict[str, dict[float, float]]:
        """Each method's scores by learning rate: of the grid, and further on while the best rate is at an end of it."""
        args = self.args
        grid: dict[str, dict[float, float]] = {m: {} for m in args.methods}
        todo = {m: list(args.lrs) for m in args.methods}
        while todo:
            runs = [Run(m, lr, args.seeds[0], 'val', args.grid_length) for m, lrs in todo.items() for lr in lrs]
            for run, score in self.train_all(runs).items():
                grid[run.method][run.lr] = score
            todo = {m: lrs for m in todo if (lrs := next_rates(grid[m]))}
        return grid

    def ablate(self) -> list[dict[str, Any]]:
        """Train every variant with every seed; a row per variant."""
        args = self.args
        variants = args.ablate or list(self.protocol.variants)
        found = self.train_all(Run(v, args.ablation_lr, s, 'val', args.length) for s in args.seeds for v in variants)
        return [
            dict(
                method=v,
                varies=self.protocol.variants[v][0],
                changed=dict(self.protocol.variants[v][1]),
                lr=args.ablation_lr,
                **self._by_seed({run: score for run, score in found.items() if run.method == v}, 'val'),
            )
            for v in variants
        ]

    def train_all(self, runs: Iterable[Run]) -> dict[Run, float]:
        """Make runs, `--jobs` at a time; return their scores."""
        runs = list(runs)
        for run in runs:  # before the threads: MMEngine reads one config at a time
            self._write_config(run)
        with ThreadPoolExecutor(self.args.jobs) as pool:
            return dict(zip(runs, pool.map(self._train, runs), strict=True))

    def _folder(self, run: Run) -> Path:
        """Where a run keeps its logs and checkpoints."""
        return self.args.work_dir / run.name(self.protocol.unit)

    def _config(self, run: Run) -> Path:
        """Its config, beside the folder, into which the runner writes what it makes of it."""
        return self.args.work_dir / f'{self._folder(run).name}.py'

    def _write_config(self, run: Run) -> None:
        method, changed = self.protocol.variants.get(run.method, (run.method, {}))
        cfg = Config.fromfile(ROOT / 'configs' / self.protocol.configs.get(method, method))
        net = 'model.backbone' if 'backbone' in cfg.model else 'model.generator'
        cfg.merge_from_dict({f'{net}.{key}': value for key, value in changed.items()})
        self.protocol.prepare(cfg, run)
        cfg.optim_wrapper.optimizer.lr = run.lr
        cfg.randomness = dict(seed=run.seed)
        cfg.merge_from_dict(self.args.cfg_options or {})
        path = self._config(run)
        if path.exists() and Config.fromfile(path).to_dict() != cfg.to_dict():
            sys.exit(f'{path} has other settings: delete it and the folder beside it, or choose another --work-dir.')
        self._folder(run).mkdir(parents=True, exist_ok=True)
        cfg.dump(path)

    def _score(self, run: Run, metric: str | None = None) -> float | None:
        """The score at the end of a run that is done, else None."""
        try:
            _, validations = read_scalars(self._folder(run))
        except FileNotFoundError:
            return None
        values = [row[metric or self.protocol.metric] for row in validations if row['step'] == run.length]
        return round(self.protocol.scale * values[0], 3) if values else None

    def _by_seed(self, scores: dict[Run, float], split: str) -> dict[str, dict[str, Any]]:
        """Scores of runs that differ by their seeds alone, and the further ones that the protocol names."""
        further = {key: {str(run.seed): self._score(run, key) for run in scores} for key in self.protocol.also}
        return {f'{split}_by_seed': {str(run.seed): score for run, score in scores.items()}} | (
            dict(also=further) if further else {}
        )

    def _train(self, run: Run) -> float:
        """Make a run, unless it is done; return its score."""
        folder, done = self._folder(run), self._score(run)
        if done is not None:
            return done
        script, config = str(ROOT / 'tools/train.py'), str(self._config(run))
        command = [sys.executable, script, config, '--work-dir', str(folder)]
        if (folder / 'last_checkpoint').exists():  # else it would drop the config's load_from
            command.append('--resume')
        path = os.pathsep.join([str(ROOT / 'benchmarks'), os.environ.get('PYTHONPATH', '')])  # for custom_imports
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path.rstrip(os.pathsep)}
        with (folder / 'output.txt').open('a') as out:
            code = subprocess.run(
                command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env, check=False
            ).returncode
        done = self._score(run)
        if code or done is None:
            raise RuntimeError(f'{folder.name} ended with exit status {code}: see {folder / "output.txt"}.')
        print(f'{folder.name}: {done:.3f}', flush=True)
        return done


def next_rates(scores: Mapping[float, float]) -> list[float]:
    """The rate beyond that end of a grid at which its best one is, by the grid's own step.

    None if it is inside, or if there are `MOST_RATES` already: a method that learns nothing is as good at any.
    """
    lrs = sorted(scores)
    if len(lrs) >= MOST_RATES:
        return []
    best = max(lrs, key=scores.__getitem__)
    ends = {lrs[0]: lrs[1], lrs[-1]: lrs[-2]}
    return [float(f'{best * best / ends[best]:.2g}')] if best in ends else []


def _parse_args(
    protocol: Protocol, description: str, work_dir: str, parents: Sequence[argparse.ArgumentParser]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, parents=parents)
    methods, variants = list(protocol.configs), list(protocol.variants)
    parser.add_argument('--methods', nargs='+', choices=methods, default=methods)
    parser.add_argument('--ablate', nargs='*', choices=variants, help='variants; all if none is named')
    parser.add_argument('--ablation-lr', type=float, default=protocol.ablation_lr, help='their learning rate')
    parser.add_argument('--lrs', nargs='+', type=float, default=list(protocol.lrs))
    parser.add_argument('--seeds', nargs='+', type=int, default=list(protocol.seeds))
    parser.add_argument('--grid-length', type=int, default=protocol.grid_length, help=f'{protocol.unit} of the grid')
    parser.add_argument('--length', type=int, default=protocol.length, help=f'{protocol.unit} of a tested run')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, each on one thread')
    parser.add_argument('--work-dir', type=Path, default=Path(work_dir))
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of every run')
    parser.add_argument('--json', type=Path, help='file to write the rows to; keeps those of other methods')
    return parser.parse_args()
