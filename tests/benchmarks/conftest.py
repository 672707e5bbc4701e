"""Programs of the repository, run in this process as a user runs them."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch):
    """The names that a program defines; `script` is its path from the root."""

    def load(script, run_name='loaded'):
        monkeypatch.syspath_prepend((ROOT / script).parent)  # as python does for a script
        return runpy.run_path(str(ROOT / script), run_name=run_name)

    return load


@pytest.fixture
def run(load, monkeypatch, tmp_path):
    """Run a program in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
        load(script, run_name='__main__')

    return run
