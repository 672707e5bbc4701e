"""Ways to average gradients over processes: time of a step, gradients alive, bytes in flight.

    python benchmarks/distributed.py CONFIG --processes 2 4 --batch 2 --size 128 --json OUT

Every process trains on a batch of its own, on one thread over gloo, or on its own GPU over NCCL. Ways take turns in
every round. `at the end` is MMDistributedDataParallel, `by module` man_mm.LocalDistributedDataParallel.
"""

import argparse
import statistics
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS
from rich.console import Console
from rich.table import Table
from spawned import add_processes, measured_rows, write_rows

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.memory import PeakMemory, training_tensors
from man_mm.analysis.step import TrainStep
from man_mm.engine import LocalOptimWrapper

MIB = 2**20
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    'at the end': (dict(type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True), False),
    'by module': (dict(type='man_mm.LocalDistributedDataParallel'), False),
    'by module, eager steps': (dict(type='man_mm.LocalDistributedDataParallel'), True),
}
"""Wrapper of the model, and whether modules step eagerly."""


@OPTIM_WRAPPERS.register_module()
class SamplingOptimWrapper(LocalOptimWrapper):
    """Notes the most gradients that were alive, and the most that were on their way, after each backward."""

    gradients = in_flight = 0

    def local_backward(self, losses: Any, module: int) -> None:
        super().local_backward(losses, module)
        self._note()

    def backward(self, loss: Any, **kwargs: Any) -> None:
        super().backward(loss, **kwargs)
        self._note()

    def _note(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        alive = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        self.gradients = max(self.gradients, alive)
        if self._reducer is not None:
            self.in_flight = max(self.in_flight, self._reducer.bytes_in_flight)


class DistributedStep(TrainStep):
    """A training step of one process of many."""

    def __init__(self, cfg: Config, way: str, device: str) -> None:
        self.wrapper, eager = WAYS[way]
        options = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('type', 'eager_step')}
        cfg.optim_wrapper = dict(type='SamplingOptimWrapper', eager_step=eager, **options)
        cfg.optim_wrapper.optimizer.lr = 0.0  # images of noise would lead the weights astray
        super().__init__(cfg, device)

    def _build(self, cfg: Config) -> Any:
        ids = None if self.device == 'cpu' else [torch.device(self.device)]
        return MODEL_WRAPPERS.build({**self.wrapper, 'module': super()._build(cfg), 'device_ids': ids})

    @property
    def bucket_bytes(self) -> int:
        """DDP's own copies of the gradients that it averages, which it makes once and keeps."""
        ignored = self.model.parameters_to_ignore
        named = self.model.module.named_parameters()
        return sum(p.nbytes for name, p in named if p.requires_grad and name not in ignored)


def measure(args: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """A row for each way, of this process."""
    batch = synthetic_batch(Config.fromfile(args.config), args.batch, (args.size, args.size))
    steps = {way: DistributedStep(Config.fromfile(args.config), way, device) for way in WAYS}
    rows = {way: _memory(step, batch) for way, step in steps.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, step in steps.items():
            seconds[way].append(_seconds(step, batch))
    for way, row in rows.items():
        ratios = [own / first for own, first in zip(seconds[way], seconds['at the end'], strict=True)]
        row.update(step_s=statistics.median(seconds[way]), step_ratio=statistics.median(ratios))
        row['step_s_range'] = [min(seconds[way]), max(seconds[way])]
    return [dict(way=way, **row) for way, row in rows.items()]


def _memory(step: DistributedStep, batch: Any) -> dict[str, Any]:
    step.warm_up(batch)
    meter = PeakMemory(training_tensors(step.model, step.optimizer), step.device)
    with meter:
        step(batch)
    return dict(
        gradients_mib=step.optim_wrapper.gradients / MIB,
        ddp_buckets_mib=step.bucket_bytes / MIB,
        in_flight_mib=step.optim_wrapper.in_flight / MIB or step.bucket_bytes / MIB,
        peak_mib=meter.peak_bytes / MIB + (0 if step.device != 'cpu' else step.bucket_bytes / MIB),
    )


def _seconds(step: DistributedStep, batch: Any) -> float:
    dist.barrier()
    start = time.perf_counter()
    step(batch)
    if step.device != 'cpu':
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--batch', type=int, default=2, help='of one process')
    parser.add_argument('--size', type=int, default=128, help='height and width of images in px')
    add_processes(parser)
    args = parser.parse_args()
    rows = measured_rows(measure, args)
    keys = ('step_s', 'step_ratio', 'gradients_mib', 'ddp_buckets_mib', 'in_flight_mib', 'peak_mib')
    table = Table('processes', 'gradients are averaged', *keys)
    for row in rows:
        table.add_row(str(row['processes']), row['way'], *(f'{row[key]:.2f}' for key in keys))
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    write_rows(rows, args)


if __name__ == '__main__':
    main()
