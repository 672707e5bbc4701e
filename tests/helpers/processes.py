"""Processes that may be killed, started without the cost of importing everything anew."""

import contextlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    ['mmdet.models', 'mmdet.datasets', 'man_mm.engine', 'man_mm.auxiliary', 'man_mm.readout']
)


@dataclass
class Result:
    """How a process ended; `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    output: str


def start(function, *arguments):
    """Call `function` in a process of its own; returns the running process."""
    process = CONTEXT.Process(target=_one_thread, args=(function, *arguments))
    process.start()
    return process


def call(function, *arguments):
    """Call `function` in a process of its own and return how that ended."""
    process = start(function, *arguments)
    process.join()
    return process.exitcode


def tool(name, *arguments, folder):
    """Run a command line of `tools/` as a user does, with `folder` as the current one."""
    log = folder / 'output.log'
    code = call(_tool, str(ROOT / 'tools' / name), [str(argument) for argument in arguments], str(folder), str(log))
    return Result(code, log.read_text())


def run(*command, cwd=ROOT, **env):
    """Run a command with this checkout on the path; returns the finished process with its output."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **env}
    env['PATH'] = f'{Path(sys.executable).parent}:{env["PATH"]}'
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def python(tool, *arguments, **options):
    """Run a command line of `tools/` in a Python of its own, from the root of the checkout unless `cwd` is given."""
    return run(sys.executable, ROOT / 'tools' / tool, *arguments, **options)


def free_port():
    """A port that nobody listens to."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def _one_thread(function, *arguments):
    from .device import use_exact_kernels

    use_exact_kernels()
    function(*arguments)


def _tool(script, arguments, folder, log):
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    with open(log, 'w') as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                print(end.code)
                sys.exit(1)
            raise
        except Exception:
            traceback.print_exc()
            sys.exit(1)
