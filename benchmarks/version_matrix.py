"""Run a tenth of the test suite on the oldest and the newest Python and torch: `make test-matrix`.

Makes an environment for each stack below work_dirs/versions, unless it is there, and ends with the table of
docs/get_started.md. mmcv's ops are compiled, about ten minutes a stack on two cores.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = Path('work_dirs/versions')
CONSTRAINTS = ROOT / 'requirements/constraints.txt'
PINNED = r'(mm\w+|numpy|opencv.*|albumentations|diffusers|huggingface-hub|transformers|tokenizers)=='
"""Of the set of versions for Python 3.11, those that every Python gets: others need a Python as new, or differ."""
TESTS = [
    'tests/test_keys.py',
    'tests/test_versions.py',
    *(f'tests/local/test_{name}.py' for name in ('step', 'bank', 'trace', 'tail_chunks')),
    *(f'tests/engine/test_{name}.py' for name in ('isolation', 'parity', 'gradients', 'eager_step', 'resume', 'amp')),
    'tests/engine/test_activation_checkpoint.py',
    *(f'tests/analysis/test_{name}.py' for name in ('cost', 'memory')),
    'tests/runs',
    'tests/tools/test_command_lines.py',
]


@dataclass(frozen=True)
class Stack:
    """One environment: versions, and the setuptools by which this torch compiles mmcv."""

    python: str
    torch: str
    torchvision: str
    setuptools: str

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / f'python{self.python}-torch{self.torch}'


STACKS = [Stack('3.10', '2.1.2', '0.16.2', '<70'), Stack('3.12', '2.11.0', '0.26.0', '<80')]


def set_up(stack: Stack, python: str) -> Path:
    """Return the interpreter of the environment, made if there is none that is whole."""
    own = stack.folder.absolute() / 'bin/python'
    done = stack.folder / '.set-up'
    if done.exists():
        return own
    subprocess.run([python, '-m', 'venv', '--clear', str(stack.folder)], check=True)
    pins = stack.folder / 'constraints.txt'
    kept = [line for line in CONSTRAINTS.read_text().splitlines() if re.match(PINNED, line)]
    versions = [f'torch=={stack.torch}', f'torchvision=={stack.torchvision}', f'setuptools{stack.setuptools}']
    pins.write_text('\n'.join([*kept, *versions, '']))
    pip = [str(own), '-m', 'pip', 'install', '-q', '-c', str(pins)]
    compiler = ['env', 'MMCV_WITH_OPS=1', 'CFLAGS=-g0', *pip, '--no-build-isolation']
    needs = [f'-r{ROOT}/requirements/{name}.txt' for name in ('stack', 'sr')]
    for command in (
        [*pip, 'torch', 'torchvision', 'numpy', 'setuptools', 'wheel', 'ninja'],
        [*compiler, 'mmcv'],
        [*pip, *needs, 'pytest'],
    ):
        subprocess.run(command, check=True)
    if subprocess.run([str(own), '-c', 'import cv2'], check=False).returncode:  # it wants a display library
        subprocess.run([*pip, '--force-reinstall', '--no-deps', 'opencv-python-headless'], check=True)
    done.touch()
    return own


def run_tests(own: Path) -> str:
    """Return how many tests passed, failed and were skipped, as pytest says it."""
    env = ['env', f'PYTHONPATH={ROOT}', 'OMP_NUM_THREADS=1', f'PATH={own.parent}:/usr/bin:/bin']
    command = [*env, str(own), '-m', 'pytest', '-m', 'not long', '-p', 'no:cacheprovider', *TESTS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        last = ''
        for line in tests.stdout:
            print(line, end='', flush=True)
            last = line.strip() or last
    return last if re.search(r'\d+ (passed|failed|error)', last) else f'ended with {tests.returncode}: {last}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', help='one version of Python, e.g. 3.10')
    args = parser.parse_args()
    rows = ['| Python | torch | a tenth of the suite |', '|---|---|---|']
    for stack in STACKS:
        if args.only in (None, stack.python):
            rows.append(f'| {stack.python} | {stack.torch} | {run_tests(set_up(stack, f"python{stack.python}"))} |')
    if len(rows) == 2:
        sys.exit(f'--only {args.only}: it must be one of {[stack.python for stack in STACKS]}.')
    print('\n'.join(rows))
    if any(word in row for row in rows for word in ('ended with', 'error', 'failed')):
        sys.exit(1)


if __name__ == '__main__':
    main()
