"""Processes that are ended with all that they started: forks of this one, which save its imports, and new ones."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

__all__ = ['Process', 'forked', 'import_all', 'spawned']

IMPORTS = (
    'man_mm',
    'torchvision',
    'mmengine.runner',
    'mmcv.ops',
    'mmdet.models',
    'mmdet.datasets',
    'mmdet.evaluation',
    'mmpretrain.models',
    'mmagic.models',
    'man_mm.engine',
    'man_mm.auxiliary',
    'man_mm.readout',
    'man_mm.models',
    'man_mm.analysis.measure',
)


class Process:
    """A process.

    Args:
        pid: Its number.
        leads: Whether it has a group of its own, which ends with it.
    """

    def __init__(self, pid: int, leads: bool = True) -> None:
        self.pid, self.leads = pid, leads
        self.code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit status, None if it has not ended in `seconds`."""
        until = time.time() + seconds
        while self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.time() > until:
                break
            else:
                time.sleep(0.05)
        return self.code

    def end(self) -> None:
        """Kill it. One that the driver holds may not die: it is left behind."""
        if self.code is None:
            (os.killpg if self.leads else os.kill)(self.pid, signal.SIGKILL)
            self.wait(10)


def forked(function: Callable[[], None], output: str | None = None, leads: bool = True) -> Process:
    """A fork of this process that calls `function`; what it prints goes to the file `output`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Process(pid, leads)
    code = 1
    try:
        if leads:
            os.setsid()
        if output is not None:
            file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_STARTED: list[subprocess.Popen] = []
"""Kept: `subprocess` would wait for one that nobody holds."""


def spawned(command: Sequence[str]) -> Process:
    """A new process."""
    _STARTED.append(subprocess.Popen(command, start_new_session=True))
    return Process(_STARTED[-1].pid)


def import_all() -> None:
    """Import what stages need."""
    begin = time.time()
    for name in IMPORTS:
        import_module(name)
    print(f'imports: {time.time() - begin:.1f} s', flush=True)
