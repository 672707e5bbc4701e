"""Pipelines of classifiers: images per second of man_mm.LocalPipeline, of torch's own schedules, and of one process.

    python benchmarks/pipeline.py BP_CONFIG LOCAL_CONFIG --processes 2 4 --batch 64 --micro-batches 4 --json OUT

All ways train on the same images of noise, cut into the same micro-batches, and step once a batch. Ways take turns in
every round; a round is `--steps` steps, from an empty pipeline to an empty one. Processes have one thread each, over
gloo, or one GPU each, over NCCL. torch's schedules train the plain model by back-propagation, cut into stages of equal
cost by the floating-point operations of its units.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from rich.console import Console
from rich.table import Table
from spawned import add_processes, measured_rows, write_rows
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils.flop_counter import FlopCounterMode

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.step import TrainStep, build_model
from man_mm.engine import LocalPipeline
from man_mm.engine.pipeline.alone import alone, group_of_one
from man_mm.local import evaluating, partition, unroll

SCHEDULES = {'BP, GPipe': ScheduleGPipe, 'BP, 1F1B': Schedule1F1B}


class PipelineStep(TrainStep):
    """A step of one process of a LocalPipeline."""

    def __init__(self, cfg: Config, device: str) -> None:
        super().__init__(cfg, device)
        self.model.start(self.optim_wrapper)

    def _build(self, cfg: Config) -> LocalPipeline:
        return LocalPipeline(super()._build(cfg))


class Stage(nn.Module):
    """Units of a plain classifier's backbone; the last stage has neck and head too, and returns logits."""

    def __init__(self, model: Any, start: int, stop: int) -> None:
        super().__init__()
        self.net = (model.backbone,)  # in a tuple: layers of other stages are none of this one's
        self.units = unroll(model.backbone).units[start:stop]
        self.layers = nn.ModuleList(model.backbone.get_submodule(path) for unit in self.units for path in unit.layers)
        is_last = stop == len(unroll(model.backbone).units)
        self.rest = nn.ModuleList([model.neck, model.head] if is_last else [])

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(self.net[0], x)
        for part in self.rest:
            x = part((x,) if isinstance(x, Tensor) else x)
        return x


class ScheduleStep:
    """A step of one process of a schedule of torch.distributed.pipelining."""

    def __init__(self, cfg: Config, schedule: type, micro_batches: int, data: Any, device: str) -> None:
        torch.manual_seed(0)
        model = build_model(cfg).to(device).train()
        ready = model.data_preprocessor(data, True)
        self.images = ready['inputs']
        self.labels = torch.cat([sample.gt_label for sample in ready['data_samples']])
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        stage = Stage(model, *_bounds(model, self.images[:1], self.world)[self.rank : self.rank + 2])
        optimizer = {key: value for key, value in cfg.optim_wrapper.optimizer.items() if key != 'type'}
        self.optimizer = torch.optim.SGD(stage.parameters(), **optimizer)
        pipe = PipelineStage(stage, self.rank, self.world, torch.device(device))
        self.schedule = schedule(pipe, micro_batches, loss_fn=nn.functional.cross_entropy)

    def __call__(self) -> None:
        inputs = (self.images,) if self.rank == 0 else ()
        target = dict(target=self.labels) if self.rank == self.world - 1 else {}
        self.schedule.step(*inputs, **target)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _bounds(model: Any, image: Tensor, world: int) -> tuple[int, ...]:
    """First units of stages that are equally costly."""
    costs, x = [], image
    units = unroll(model.backbone).units
    with evaluating(model.backbone):
        for unit in units:
            with FlopCounterMode(display=False) as counter:
                x = unit(model.backbone, x)
            costs.append(counter.get_total_flops())
    return partition([unit.name for unit in units], world, 'memory', costs=costs).bounds


def _in_micro_batches(step: Callable[[Any], Any], data: dict[str, list[Any]], num: int) -> Callable[[], None]:
    """A step of accumulated micro-batches, as MMEngine makes it."""
    size = len(data['inputs']) // num
    parts = [{key: value[i : i + size] for key, value in data.items()} for i in range(0, size * num, size)]

    def accumulated() -> None:
        for part in parts:
            step(part)

    return accumulated


def _ways(args: argparse.Namespace, device: str) -> dict[str, Callable[[], None] | None]:
    """What this process does in a step of each way; None where it has nothing to do."""
    data = synthetic_batch(Config.fromfile(args.bp), args.batch, (args.size, args.size))

    def config(path: str) -> Config:
        cfg = Config.fromfile(path)
        cfg.optim_wrapper.accumulative_counts = args.micro_batches
        cfg.optim_wrapper.optimizer.lr = 0.0  # images of noise would lead the weights astray
        return cfg

    own_group = group_of_one()
    ways: dict[str, Callable[[], None] | None] = {}
    for name, path in {'BP': args.bp, **{f'local: {Path(path).stem}': path for path in args.local}}.items():
        step = None
        if dist.get_rank() == 0:
            with alone(own_group):
                step = TrainStep(config(path), device)
        ways[f'{name}, one process'] = step and _in_micro_batches(step, data, args.micro_batches)
    for name, schedule in SCHEDULES.items():
        ways[name] = ScheduleStep(config(args.bp), schedule, args.micro_batches, data, device)
    for path in args.local:
        step = PipelineStep(config(path), device)
        ways[f'local: {Path(path).stem}, LocalPipeline'] = _in_micro_batches(step, data, args.micro_batches)
    return ways


def measure(args: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """A row for each way, of all processes."""
    ways = _ways(args, device)
    for step in ways.values():
        _seconds(step, 1, device)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, step in ways.items():
            taken[name].append(_seconds(step, args.steps, device))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, taken)
    baseline = [wall for wall, _ in taken[next(iter(ways))]]
    return [_row(name, [own[name] for own in everyone], baseline, args) for name in ways]


def _seconds(step: Callable[[], None] | None, num: int, device: str) -> tuple[float, float]:
    """Seconds on the clock until all processes are done with `num` steps, and seconds that this one computed."""
    dist.barrier()
    start, computed = time.perf_counter(), time.process_time()
    for _ in range(num if step is not None else 0):
        step()
    if device != 'cpu':
        torch.cuda.synchronize()
    computed = time.process_time() - computed
    dist.barrier()
    return time.perf_counter() - start, computed


def _row(
    way: str, taken: list[list[tuple[float, float]]], baseline: Iterable[float], args: argparse.Namespace
) -> dict[str, Any]:
    """Of every round: images per second, the ratio to the first way, and the CPU's share in each process."""
    images = args.batch * args.steps
    walls = [wall for wall, _ in taken[0]]
    rates = [images / wall for wall in walls]
    row: dict[str, Any] = dict(way=way)
    row.update(images_per_s=statistics.median(rates), images_per_s_range=[min(rates), max(rates)])
    row['ratio'] = statistics.median(base / wall for base, wall in zip(baseline, walls, strict=True))
    if args.device == 'cpu':
        row['cpu_s_per_step'] = [statistics.median(cpu for _, cpu in own) / args.steps for own in taken]
        row['cpu_share'] = [statistics.median(cpu / wall for wall, cpu in own) for own in taken]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bp', help='config of a classifier, trained by back-propagation')
    parser.add_argument('local', nargs='+', help='configs that train it by local learning')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--micro-batches', type=int, default=4)
    parser.add_argument('--size', type=int, default=32, help='height and width of images in px')
    parser.add_argument('--steps', type=int, default=4, help='of a round')
    add_processes(parser)
    args = parser.parse_args()
    rows = measured_rows(measure, args)
    table = Table('processes', 'way', 'images / s', 'range', 'ratio', 'CPU s / step', "CPU's share")
    for row in rows:
        low, high = row['images_per_s_range']
        cpu = [' '.join(f'{value:.2f}' for value in row.get(key, [])) for key in ('cpu_s_per_step', 'cpu_share')]
        table.add_row(
            str(row['processes']), row['way'], f'{row["images_per_s"]:.1f}', f'{low:.1f}-{high:.1f}',
            f'{row["ratio"]:.2f}', *cpu,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    write_rows(rows, args)


if __name__ == '__main__':
    main()
