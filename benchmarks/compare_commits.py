"""Compare the training of tiny models at a commit and in this checkout, to the bit.

    python benchmarks/compare_commits.py BASE [--only REGEX] [--keep]

Trains the models of `compare_cases.py`: every rule, readout and family, heads shared and private, eager steps, AMP,
accumulation, DDP, the pipeline. Compares gradients as the optimizer saw them, losses, the log, weights, optimizer state
and outputs, names included, and ends with 1 where anything differs. What BASE gives is kept in a cache.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
SOURCES = ('compare_cases.py', 'compare_models.py')
CACHE = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'man_mm' / 'compare_commits'
ERROR = 'error'


def first_difference(base: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What two results of a case differ in first; None if all names, types and bits are the same."""
    for side, result in (('base', base), ('new', new)):
        if ERROR in result:
            return f'{side} failed: {result[ERROR].strip().splitlines()[-1]}'
    for name, ours, theirs in (('lacks', base, new), ('adds', new, base)):
        names = [key for key in ours if key not in theirs]
        if names:
            return f'new {name} {names[0]}' + (f' and {len(names) - 1} more' if len(names) > 1 else '')
    differing = [key for key in base if not _is_equal(base[key], new[key])]
    if not differing:
        return None
    more = f' ({len(differing)} of {len(base)} differ)'
    return _describe(differing[0], base[differing[0]], new[differing[0]]) + more


def _is_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, so that NaN equals NaN and 0 is not -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def _describe(name: str, a: torch.Tensor, b: torch.Tensor) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f'{name}: {tuple(a.shape)} {a.dtype} became {tuple(b.shape)} {b.dtype}'
    return f'{name}: up to {(a.double() - b.double()).abs().max().item():.3g} of {a.double().abs().max().item():.3g}'


def compare(base: Path, new: Path, names: list[str]) -> dict[str, str | None]:
    """The first difference of every case, None where there is none."""
    return {name: first_difference(_read(base, name), _read(new, name)) for name in names}


def _read(folder: Path, name: str) -> dict[str, Any]:
    file = folder / f'{name}.pth'
    return torch.load(file) if file.exists() else {ERROR: 'its process ended without a result'}


def run_cases(checkout: Path, folder: Path, only: str) -> None:
    """Run the cases that match on the package of a checkout; their results are files in `folder`."""
    command = [sys.executable, '-W', 'ignore', str(FOLDER / SOURCES[0]), str(folder), '--only', only]
    threads = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
    # no GPU: it may add in another order each time, and what is compared here are commits
    own = dict(PYTHONPATH=str(checkout), CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore', **threads)
    subprocess.run(command, env={**os.environ, **own}, cwd=folder, check=False)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit in a temporary folder, gone at the end."""
    with tempfile.TemporaryDirectory(prefix='man_mm-') as folder:
        path = Path(folder) / commit[:12]
        _git('worktree', 'add', '--detach', '--quiet', str(path), commit)
        try:
            yield path
        finally:
            _git('worktree', 'remove', '--force', str(path))


def _git(*args: str) -> str:
    return subprocess.run(['git', '-C', str(ROOT), *args], check=True, capture_output=True, text=True).stdout.strip()


def cache_of(commit: str) -> Path:
    """Where results of a commit are kept: they hold for these cases, this torch and this kind of CPU."""
    parts = [(FOLDER / source).read_bytes() for source in SOURCES]
    parts += [torch.__version__.encode(), torch.backends.cpu.get_cpu_capability().encode()]
    return CACHE / f'{commit[:12]}-{hashlib.sha256(b"".join(parts)).hexdigest()[:12]}'


def forget_failures(folder: Path, names: list[str]) -> None:
    """Delete results that are errors, so that they are tried again."""
    for name in names:
        if ERROR in _read(folder, name):
            (folder / f'{name}.pth').unlink(missing_ok=True)


def print_table(differences: Mapping[str, str | None]) -> None:
    """One row a case."""
    table = Table('case', 'equal', 'first difference')
    for name, difference in differences.items():
        table.add_row(name, 'yes' if difference is None else '[red]no', difference or '')
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main() -> int:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0],
        epilog=__doc__.split('\n\n', 2)[2],
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument('base', help='a commit')
    parser.add_argument('--only', default='', metavar='REGEX', help='cases whose name matches')
    parser.add_argument('--keep', action='store_true', help="keep this checkout's results, and say where they are")
    args = parser.parse_args()
    commit = _git('rev-parse', '--verify', f'{args.base}^{{commit}}')
    cache = cache_of(commit)
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix='man_mm-new-'))
    start = time.perf_counter()
    try:
        run_cases(ROOT, folder, args.only)
        between = time.perf_counter()
        names = (folder / 'cases.txt').read_text().splitlines()
        missing = [name for name in names if not (cache / f'{name}.pth').exists()]
        if missing:
            with worktree(commit) as checkout:
                run_cases(checkout, cache, f'^({"|".join(map(re.escape, missing))})$')
        differences = compare(cache, folder, names)
        forget_failures(cache, missing)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    print_table(differences)
    different = sum(difference is not None for difference in differences.values())
    seconds = f'{between - start:.0f} s for this checkout, {time.perf_counter() - between:.0f} s for {commit[:12]}'
    print(f'{len(names) - different} of {len(names)} cases equal, {different} differ; {seconds}')
    if args.keep:
        print(f'results: {cache} and {folder}')
    return 1 if different else 0


if __name__ == '__main__':
    sys.exit(main())
