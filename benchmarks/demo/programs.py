"""How the demo runs its phases and says how long it still takes."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

__all__ = ['Phases', 'run_python']


class Phases:
    """Announces phases, and knows how long the rest of the demo takes.

    Args:
        console: Where to announce.
        seconds: Every phase with a first guess of its seconds on two cores; measurements may replace them later.
    """

    def __init__(self, console: Console, seconds: dict[str, float]) -> None:
        self.console = console
        self.seconds = seconds
        self.current = ''
        self.started = 0.0

    def start(self, phase: str) -> None:
        """Begin a phase; the one before is over."""
        self.current, self.started = phase, time.monotonic()
        number = 1 + list(self.seconds).index(phase)
        text = f'\n[{number}/{len(self.seconds)}] {phase} ... {self.left()}'
        self.console.print(text, markup=False, style='bold')

    def left(self, share_done: float = 0.0) -> str:
        """What is left of the demo when `share_done` (0..1) of the current phase is done, in words."""
        order = list(self.seconds)
        rest = sum(self.seconds[phase] for phase in order[order.index(self.current) + 1 :])
        own = self.seconds[self.current]
        if share_done > 0:
            own = (time.monotonic() - self.started) / share_done
            if share_done < 0.2:  # start-up still weighs too much
                own = (own + self.seconds[self.current]) / 2
        seconds = own * (1 - share_done) + rest
        return f'about {seconds / 60:.1f} min left' if seconds >= 60 else f'about {seconds:.0f} s left'


def run_python(command: list[str], log: Path, on_line: Callable[[str], None]) -> None:
    """Run a Python program, write its output to `log`, and hand every line to `on_line`.

    Raises:
        RuntimeError: If it fails; with the end of its output.
    """
    lines: list[str] = []
    with (
        log.open('w', encoding='utf-8') as file,
        subprocess.Popen(
            [sys.executable, '-u', *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            on_line(line)
    if process.returncode != 0:
        end = ''.join(lines[-15:])
        raise RuntimeError(f'{" ".join(command)} ended with exit status {process.returncode}. The end of {log}:\n{end}')
