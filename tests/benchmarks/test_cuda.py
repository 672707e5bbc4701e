"""benchmarks/cuda: a check that hangs, dies or fails loses nothing of the others."""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'benchmarks/cuda'
NAMES = ('checks', 'driver', 'meters', 'processes', 'steps', 'stage_memory', 'stage_resnet', 'stage_time')


@pytest.fixture
def cuda(monkeypatch):
    """Imports a module of the folder."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def stage(cuda, path, limit=1, **made):
    """Starts a process that makes checks."""

    def run():
        checks = cuda('checks').Checks(path, 'cpu')
        for name, check in made.items():
            checks.run(name, check, limit=limit)
        checks.finish()

    return lambda: cuda('processes').forked(run, os.devnull)


def fine():
    return dict(ms=1.23456789)


def fails():
    raise ValueError('what it says')


def skips(cuda):
    def check():
        raise cuda('checks').Skip('needs a GPU')

    return check


def test_a_stage_goes_on_behind_what_fails_hangs_or_dies(cuda, tmp_path):
    path = tmp_path / 'stage.json'
    made = dict(
        first=fine, fails=fails, skips=skips(cuda), hangs=lambda: time.sleep(60), dies=lambda: os._exit(3), last=fine
    )
    data = cuda('driver').supervise(stage(cuda, path, **made), path, 30)
    assert data == json.loads(path.read_text())
    found = data['checks']
    assert {name: row['ok'] for name, row in found.items()} == dict(
        first=True, fails=False, skips=None, hangs=False, dies=False, last=True
    )
    assert found['first']['ms'] == found['last']['ms'] == 1.2346
    assert found['fails']['error'] == 'ValueError: what it says'
    assert (found['hangs']['error'], found['dies']['error']) == ('it took too long', 'ended by 3')
    assert data['finished'] and data['ends'] == ['hung', 3, 0]


def test_a_stage_that_runs_out_of_time_keeps_what_it_has(cuda, tmp_path):
    path = tmp_path / 'stage.json'
    begin = time.time()
    made = dict(first=fine, late=lambda: time.sleep(60))
    data = cuda('driver').supervise(stage(cuda, path, 100, **made), path, 4)
    assert time.time() - begin < 30
    assert data['checks']['first']['ok'] and 'finished' not in data and data['ends'] == ['late']


def test_checks_are_chosen_by_name_and_by_the_seconds_left(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv('MAN_MM_DEADLINE', str(time.time() + 5))
    checks = cuda('checks').Checks(tmp_path / 'stage.json', 'cpu', only='R50|bf16')
    assert checks.run('R50 BP', fine)['ok'] and checks.run('ResNet-32', fine) == {}
    assert checks.run('R50 long', fine, need=10)['ok'] is None
    assert checks.run('R50 BP', fails)['ok'], 'what is in the file is not run again'


def test_every_config_and_estimate_is_there(cuda):
    memory, resnet, timed = cuda('stage_memory'), cuda('stage_resnet'), cuda('stage_time')
    rows = [*memory.ROWS, *((name, 8) for name in memory.EXPLAINED)]
    assert all(memory.estimate(name, num) > 100 for name, num in rows)
    paths = [*resnet.RULES.values(), *timed.R50.values(), *timed.SMALL.values(), *(memory.path(row) for row, _ in rows)]
    assert [path for path in paths if not (ROOT / 'configs' / path).exists()] == []


def test_times_in_turns_are_compared_within_a_round(cuda, monkeypatch):
    clock, speed = [0.0], iter((1, 1, 1, 1, 10, 10, 10, 10, 1, 1, 1, 1))  # a slow moment in the second of three rounds

    def takes(seconds):
        def call():
            clock[0] += seconds * next(speed)

        return call

    meters = cuda('meters')
    monkeypatch.setattr(meters, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))
    rows = meters.times_in_turns(dict(short=takes(1), long=takes(3)), 'cpu', rounds=3, burst=2, warm=0)
    assert rows['short'] == dict(ms=1000, ms_range=[1000, 10000], issue_ms=1000, ratio=1)
    assert rows['long'] == dict(ms=3000, ms_range=[3000, 30000], issue_ms=3000, ratio=3)
