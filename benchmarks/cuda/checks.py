"""The checks of a stage, kept in a file that survives a kill."""

import gc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ['AFTER_BROKEN', 'Checks', 'Skip', 'read_json', 'write_json']

AFTER_BROKEN = 77
"""Exit status of a stage whose CUDA is beyond repair; it starts again behind the check that did it."""


class Skip(Exception):
    """A check that cannot be made here."""


def rounded(value: Any) -> Any:
    """Five digits of every float inside."""
    if isinstance(value, dict):
        return {str(key): rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write the old file or the new one, whatever ends this process."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(data, indent=1, default=str) + '\n')
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


class Checks:
    """Runs checks and writes down, after each one, what it found. One that is in the file is not run again.

    Args:
        path: The file.
        device: `cuda` or `cpu`; sizes are tiny on the latter.
        only: Regular expression on names of the checks to run.
        scale: Factor on the limits of checks.
    """

    def __init__(self, path: Path, device: str, only: str = '', scale: float = 1) -> None:
        self.path, self.device, self.only, self.scale = path, device, only, scale
        machine = json.loads(os.environ.get('MAN_MM_MACHINE', '{}'))
        self.data = read_json(path) or dict(stage=path.stem, **machine, torch=torch.__version__, checks={})
        self.deadline = float(os.environ.get('MAN_MM_DEADLINE', time.time() + 3600))

    @property
    def is_cuda(self) -> bool:
        return self.device == 'cuda'

    @property
    def left(self) -> float:
        """Seconds that the stage has left."""
        return self.deadline - time.time()

    def run(
        self, name: str, check: Callable[..., dict[str, Any]], *args: Any, limit: float = 40, need: float = 0
    ) -> dict[str, Any]:
        """Call `check` and keep what it returns, with `ok=True` unless it says otherwise or raises.

        Args:
            name: Of the check.
            check: Returns plain data.
            args: What it is called with.
            limit: Seconds after which this process is ended, to go on behind the check.
            need: With fewer seconds left it is not begun.
        """
        known = self.data['checks']
        if name in known or not re.search(self.only, name):
            return known.get(name, {})
        if self.left < need:
            return self._keep(name, dict(ok=None, skipped=f'{self.left:.0f} s left, {need} needed'))
        begin = time.time()
        self.data['running'] = dict(name=name, until=begin + self.scale * limit)
        write_json(self.path, self.data)
        try:
            found = {'ok': True, **check(*args)}
        except Skip as reason:
            found = dict(ok=None, skipped=str(reason))
        except Exception as error:  # the others must be made
            said = f'{type(error).__name__}: {error}'
            found = dict(ok=False, error=said[:1500], trace=traceback.format_exc()[-3000:])
        found['seconds'] = time.time() - begin
        self._keep(name, found)
        self._free()
        return found

    def finish(self) -> None:
        """Say that nothing was left out."""
        self.data['finished'] = True
        write_json(self.path, self.data)

    def _keep(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        self.data['checks'][name] = found = rounded(found)
        self.data.pop('running', None)
        write_json(self.path, self.data)
        mark = {True: 'ok  ', False: 'FAIL', None: 'skip'}[found['ok']]
        shown = {key: value for key, value in found.items() if key not in ('ok', 'trace', 'sites', 'top')}
        print(f'  {mark} {name}: {json.dumps(shown, default=str)[:500]}', flush=True)
        return found

    def _free(self) -> None:
        """Give back what a check left; end this process if CUDA answers no more, since every later check would fail."""
        gc.collect()
        if not torch.cuda.is_initialized():
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:
            print(f'  CUDA is beyond repair: {type(error).__name__}: {str(error)[:200]}', flush=True)
            sys.stdout.flush()
            os._exit(AFTER_BROKEN)
