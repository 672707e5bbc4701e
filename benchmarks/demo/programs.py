"""Programs that the demo runs, line by line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ['run_python', 'stop_programs']

_running: list[subprocess.Popen] = []


def run_python(command: list[str], log: Path, on_line: Callable[[str], None], threads: int) -> None:
    """Run a Python program on `threads` threads, write its output to `log`, and hand every line to `on_line`.

    Raises:
        RuntimeError: If it fails; with the end of its output.
    """
    lines: list[str] = []
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            [sys.executable, '-u', *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': str(threads)},
        ) as process,
    ):
        _running.append(process)
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            on_line(line)
        _running.remove(process)
    if process.returncode != 0:
        end = ''.join(lines[-15:])
        raise RuntimeError(f'{" ".join(command)} ended with exit status {process.returncode}. The end of {log}:\n{end}')


def stop_programs() -> None:
    """End all that are running: one failed, or the user gave up."""
    for process in _running:
        process.terminate()
