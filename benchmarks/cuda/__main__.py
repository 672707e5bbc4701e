"""What only a CUDA device can tell: times, waits, memory by the allocator, mixed precision, in one command.

    python benchmarks/cuda --out OUT --budget 290                    # from the root of the checkout
    python benchmarks/cuda --out OUT --stages time smoke --only R50  # some stages, some of their checks
    python benchmarks/cuda --out OUT --device cpu                    # dry run, tiny sizes

A stage is a process with a limit of its own; it writes OUT/<stage>.json after every check, so that an end at any moment
loses nothing. A check that hangs or breaks CUDA is ended and noted, and its stage goes on behind it. Seconds that a
stage leaves go to the next one. See docs/gpu.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter('ignore')
ENVIRONMENT = dict(
    PYTORCH_NVML_BASED_CUDA_CHECK='1',  # torch.cuda.is_available() must not start CUDA here: forks could not use it
    USE_JAX='0',  # else MMagic's imports (diffusers, transformers) start JAX where it is installed
    USE_FLAX='0',
    USE_TF='0',
    XLA_PYTHON_CLIENT_PREALLOCATE='false',
    HF_HUB_OFFLINE='1',
    NO_ALBUMENTATIONS_UPDATE='1',
    MPLBACKEND='Agg',
    PYTHONWARNINGS='ignore',
    OMP_NUM_THREADS=str(min(8, os.cpu_count() or 1)),
    CUBLAS_WORKSPACE_CONFIG=':4096:8',  # a run that is resumed is compared to the bit
)
for key, value in ENVIRONMENT.items():
    os.environ.setdefault(key, value)
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

from checks import AFTER_BROKEN, Checks, read_json, write_json  # noqa: E402
from processes import Process, forked, import_all, spawned  # noqa: E402

STAGES = dict(time=95, smoke=40, resnet=50, memory=30, train=35, pytest=15)
"""Limits in seconds, in the order of what is asked first; with 25 s of imports they add up to 290."""
TRIES = 6
"""Of a stage, each behind the check that ended the one before."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--out', type=Path, required=True, help='folder of the results')
    parser.add_argument('--budget', type=float, default=290, help='seconds for all')
    parser.add_argument('--stages', nargs='+', choices=list(STAGES), default=list(STAGES))
    parser.add_argument('--only', default='', help='regular expression: the checks to run, by name')
    parser.add_argument('--scale', type=float, default=1, help='factor on the limits of stages')
    parser.add_argument('--spawn', action='store_true', help='start stages afresh instead of forking them')
    parser.add_argument('--run', choices=list(STAGES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


def main() -> None:
    args, begin = parse_args(), time.time()
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
        limit = min(STAGES[stage] * args.scale + spare, left)
        if limit < 6:
            print(f'== {stage}: no time left', flush=True)
            continue
        print(f'== {stage} (at {time.time() - begin:.0f} s, up to {limit:.0f} s)', flush=True)
        at = time.time()
        results[stage] = supervise(args, stage, start, limit)
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


def starter(args: argparse.Namespace):
    """How stages are started: as forks of this process, which has imported everything, if a fork can compute."""
    command = [sys.executable, str(Path(__file__).parent), '--device', args.device, '--out', str(args.out)]
    command += ['--only', args.only]

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
    from importlib import import_module

    checks = Checks(args.out / f'{stage}.json', args.device, args.only)
    import_module(f'stage_{stage}').main(checks)
    checks.finish()


def supervise(args: argparse.Namespace, stage: str, start, seconds: float) -> dict:
    """Run a stage to its end, again behind a check that hung or broke it, in at most `seconds`."""
    path, until = args.out / f'{stage}.json', time.time() + seconds
    path.unlink(missing_ok=True)
    os.environ['MAN_MM_DEADLINE'] = str(until - 1)
    for _ in range(TRIES):
        if time.time() > until - 3:
            break
        process = start(stage)
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


if __name__ == '__main__':
    main()
