"""Processes that may be killed, started without the cost of importing everything anew."""

import contextlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch.multiprocessing as torch_processes

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['tests.helpers.warm'])


@dataclass
class Result:
    """How a process ended, and what it printed; `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    stdout: str
    stderr: str


def start(function, *arguments):
    """Call `function` in a process of its own; returns the running process."""
    process = CONTEXT.Process(target=_one_thread, args=(function, *arguments))
    with _served():
        process.start()
    return process


def call(function, *arguments):
    """Call `function` in a process of its own and return how that ended."""
    process = start(function, *arguments)
    process.join()
    return process.exitcode


def call_ranks(function, *arguments, num=2):
    """Call `function(rank, *arguments)` in `num` processes and wait; raises what one of them raises."""
    with _served():
        torch_processes.start_processes(_rank, (function, *arguments), nprocs=num, start_method='forkserver')


def python(tool, *arguments, cwd=ROOT):
    """Run a command line of `tools/` as a user does, in a process of its own, from the root unless `cwd` is given."""
    with tempfile.TemporaryDirectory() as logs:
        out, err = Path(logs, 'out'), Path(logs, 'err')
        words = [str(word) for word in (ROOT / 'tools' / tool, *arguments)]
        code = call(_tool, words, str(cwd), str(out), str(err))
        return Result(code, out.read_text(), err.read_text())


def run(*command, cwd=ROOT, **env):
    """Run a command with this checkout on the path; returns the finished process with its output."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **env}
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def free_port():
    """A port that nobody listens to."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _served():
    """The root, where the server, which the first process starts, finds what it imports."""
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)


def _rank(rank, function, *arguments):
    from .configs import list_no_weights

    list_no_weights()
    _one_thread(function, rank, *arguments)


def _one_thread(function, *arguments):
    from . import warm  # noqa: F401  (already there, in a process of the server)
    from .device import use_exact_kernels

    use_exact_kernels()
    function(*arguments)


def _tool(words, folder, out, err):
    os.chdir(folder)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    with (
        open(out, 'w', buffering=1) as stdout,
        open(err, 'w', buffering=1) as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(words[0], run_name='__main__')
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                print(end.code, file=sys.stderr)
                sys.exit(1)
            raise
        except Exception:
            traceback.print_exc()
            sys.exit(1)
