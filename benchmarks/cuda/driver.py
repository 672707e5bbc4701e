"""Starts the stages one after the other, with limits."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from checks import AFTER_BROKEN, Checks, read_json, write_json
from processes import Process, forked, import_all, spawned

__all__ = ['main', 'supervise']

ROOT = Path(__file__).resolve().parents[2]
TRIES = 6
"""Of a stage, each behind the check that ended the one before."""


def main(args: argparse.Namespace, limits: Mapping[str, float]) -> None:
    """Run what the command line asks for; `limits` has the seconds of every stage."""
    begin = time.time()
    os.chdir(ROOT)
    if args.run:
        import_all()
        run_stage(args, args.run)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ['MAN_MM_MACHINE'] = json.dumps(machine(args.device))
    print(os.environ['MAN_MM_MACHINE'], flush=True)
    drawing = draw_shapes(args) if 'train' in args.stages else None
    start = starter(args)
    results, spare = {}, 0.0
    for stage in args.stages:
        left = args.budget - (time.time() - begin)
        limit = min(limits[stage] * args.scale + spare, left)
        if limit < 6:
            print(f'== {stage}: no time left', flush=True)
            continue
        print(f'== {stage} (at {time.time() - begin:.0f} s, up to {limit:.0f} s)', flush=True)
        at = time.time()
        results[stage] = supervise(lambda stage=stage: start(stage), stage_file(args, stage), limit)
        spare = max(limit - (time.time() - at), 0)
        print(f'== {stage}: {time.time() - at:.0f} s', flush=True)
    if drawing is not None:
        drawing.kill()
    summarize(results, time.time() - begin)


def machine(device: str) -> dict[str, object]:
    """What the numbers are of; asked of other programs, since CUDA must not start here."""

    def said(*command: str) -> str:
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ''

    gpu = said('nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader') if device == 'cuda' else ''
    return dict(device=gpu or device, commit=said('git', 'rev-parse', '--short', 'HEAD'), cpus=os.cpu_count())


def draw_shapes(args: argparse.Namespace) -> subprocess.Popen:
    """Draw the demo's pictures meanwhile."""
    few = ['--num-train', '8', '--num-val', '4'] if args.device == 'cpu' else []
    command = [sys.executable, 'tools/dataset_tools/make_shapes.py', '--out', 'work_dirs/cuda/shapes', *few]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def starter(args: argparse.Namespace) -> Callable[[str], Process]:
    """How stages are started: as forks of this process, which has imported everything, if a fork can compute."""
    command = [sys.executable, str(Path(__file__).parent), '--device', args.device, '--out', str(args.out)]
    command += ['--only', args.only, '--scale', str(args.scale)]

    def afresh(stage: str) -> Process:
        return spawned([*command, '--run', stage])

    if args.spawn:
        return afresh
    import_all()
    probe = forked(lambda: compute(args.device))
    if probe.wait(40) != 0:
        print('a forked process cannot compute: stages start afresh', flush=True)
        probe.end()
        return afresh
    return lambda stage: forked(lambda: run_stage(args, stage))


def compute(device: str) -> None:
    """Use threads, and the device."""
    import torch

    x = torch.randn(700, 700)
    y = x.to(device)
    assert float((y @ y - (x @ x).to(device)).abs().max()) < 1


def run_stage(args: argparse.Namespace, stage: str) -> None:
    """Run a stage in this process."""
    checks = Checks(stage_file(args, stage), args.device, args.only, args.scale)
    import_module(f'stage_{stage}').main(checks)
    checks.finish()


def stage_file(args: argparse.Namespace, stage: str) -> Path:
    return args.out / f'{stage}.json'


def supervise(start: Callable[[], Process], path: Path, seconds: float) -> dict[str, Any]:
    """Run a stage to its end, again behind a check that hung or broke it, in at most `seconds`.

    Args:
        start: Starts its process, which makes `Checks` of the file `path`.
        path: Written anew.
        seconds: Limit of all tries together.

    Returns:
        What the file holds.
    """
    until = time.time() + seconds
    path.unlink(missing_ok=True)
    os.environ['MAN_MM_DEADLINE'] = str(until - 1)
    for _ in range(TRIES):
        if time.time() > until - 3:
            break
        process = start()
        code = watch(process, until, path)
        data = read_json(path)
        running = data.pop('running', None)
        if running:
            error = {'late': 'the stage ran out of time', 'hung': 'it took too long'}.get(code, f'ended by {code}')
            data.setdefault('checks', {})[running['name']] = dict(ok=False, error=error)
            print(f'  FAIL {running["name"]}: {error}', flush=True)
        data.setdefault('ends', []).append(code)
        write_json(path, data)
        if code in (0, 'late') or (code not in (AFTER_BROKEN, 'hung') and not running):
            break
    return read_json(path)


def watch(process: Process, until: float, path: Path) -> int | str:
    """Wait; end the process at `until`, or when its check has had its time. The exit status, `late` or `hung`."""
    while (code := process.wait(0.2)) is None:
        now, running = time.time(), read_json(path).get('running')
        if now > until or (running and now > running['until']):
            process.end()
            return 'late' if now > until else 'hung'
    return code


def summarize(results: dict[str, dict], seconds: float) -> None:
    """Print what failed."""
    print(f'\n== summary, {seconds:.0f} s')
    for stage, data in results.items():
        found = data.get('checks', {})
        ok, bad = ([name for name, row in found.items() if row['ok'] is value] for value in (True, False))
        skipped = len(found) - len(ok) - len(bad)
        print(f'{stage}: {len(ok)} ok, {len(bad)} failed, {skipped} skipped, finished: {data.get("finished", False)}')
        for name in bad:
            print(f'  FAIL {name}: {str(found[name].get("error") or found[name])[:200]}')
