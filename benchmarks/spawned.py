"""What benchmarks of several processes have in common: their arguments, the processes, the file of results."""

import argparse
import json
import os
import platform
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.logging import MMLogger

__all__ = ['Measure', 'add_processes', 'measured_rows', 'write_rows']

Measure = Callable[[argparse.Namespace, str], list[dict[str, Any]]]
"""What each process does with the arguments, on its device; the rows of the first one count."""


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument('--processes', type=int, nargs='+', default=[2])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--json', type=Path, help='file to write the rows to')


def measured_rows(measure: Measure, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run `measure`, a function of a module, for each number of processes; every row says of how many it is."""
    rows = []
    for world in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, 'rows.json')
            mp.spawn(_process, args=(world, _free_port(), measure, args, out), nprocs=world)
            rows += [dict(processes=world, **row) for row in json.loads(out.read_text())]
    return rows


def _process(rank: int, world: int, port: int, measure: Measure, args: argparse.Namespace, out: Path) -> None:
    """One of them: one thread over gloo, or a GPU of its own over NCCL."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    os.environ['LOCAL_RANK'] = str(rank)
    torch.set_num_threads(1)
    device = f'cuda:{rank}' if args.device == 'cuda' else 'cpu'
    if args.device == 'cuda':
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if args.device == 'cuda' else 'gloo', rank=rank, world_size=world)
    MMLogger.get_instance('benchmark', logger_name='benchmark', log_level='ERROR')
    rows = measure(args, device)
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return int(free.getsockname()[1])


def write_rows(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the rows to `--json`, if it is given, below what they were measured on and with what arguments."""
    if args.json is None:
        return
    device = torch.cuda.get_device_name() if args.device == 'cuda' else f'cpu ({platform.machine()}), 1 thread each'
    load = dict(cores=os.cpu_count(), load_average=os.getloadavg()[0])
    said = {key: value for key, value in vars(args).items() if key not in ('json', 'device')}
    whole = dict(device=device, torch=torch.__version__, **load, **said, rows=rows)
    args.json.write_text(json.dumps(whole, indent=1) + '\n')
