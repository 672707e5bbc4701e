"""Accuracy, memory and time of each method of a report, beside those of back-propagation."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from man_mm.analysis.runs import Run

__all__ = ['MISSING', 'Number', 'Opening', 'first_metric', 'opening', 'spread']

MISSING = '-'
ROOT = Path(__file__).resolve().parents[2]
OF_A_STEP = ('model.', 'local.', 'optim_wrapper.', 'custom_hooks')
"""What keys begin with that the memory of a step depends on, beside batch and size of the images."""

Methods = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Number:
    """A number as it is written, and what it is beside that of back-propagation; empty if there is none."""

    text: str
    beside: str = ''


@dataclass(frozen=True)
class Opening:
    """What a page opens with.

    Args:
        heading: What the three numbers are, with units.
        rows: The numbers of each method.
        notes: How they were taken, in sentences.
    """

    heading: list[str]
    rows: dict[str, list[Number]]
    notes: list[str]


def opening(methods: Methods, cost_rows: Sequence[Mapping[str, Any]]) -> Opening:
    """The three numbers of every method, at the end of training.

    Memory is by the first of these that all methods have: what MMEngine logged of a GPU, the row of `cost_rows` whose
    config and batch are the method's, the peak of the process. The last one holds libraries and data too, so no ratio
    is made of it.
    """
    metric = first_metric(methods)
    scores = {name: [run.scores.get(metric) for run in runs] for name, runs in methods.items()}
    times = {
        name: [_median([row['time'] for row in run.train if 'time' in row]) for run in methods[name]]
        for name in methods
    }
    kind, memory, memory_note = _memory(methods, cost_rows)
    bp = next((name for name, runs in methods.items() if runs[0].settings.get('local.num_modules', 1) == 1), None)
    compare = _ratio if kind != 'process' else _no_words
    columns = [
        _column(scores, bp, '.4g', _difference),
        _column(memory, bp, '.0f', compare),
        _column(times, bp, '.3g', _ratio),
    ]
    notes = [memory_note, 'Seconds are medians from the logs, of whatever else the machine did meanwhile.']
    notes.append('None of these runs is one of back-propagation.' if bp is None else f'Compared with {bp}.')
    headings = [metric or 'no score yet', 'MiB at the peak', 'seconds an iteration']
    return Opening(headings, {name: [column[name] for column in columns] for name in methods}, notes)


def first_metric(methods: Methods) -> str | None:
    """The first metric of the validations."""
    return next((key for runs in methods.values() for run in runs for key in run.scores), None)


def spread(values: Sequence[float | None], form: str = '.4g') -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    mean = f'{statistics.mean(known):{form}}'
    return mean if len(known) == 1 else f'{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(known):.2g}'


def _memory(methods: Methods, rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, list[float | None]], str]:
    ways: dict[str, tuple[Callable[[Run], float | None], str]] = {
        'device': (lambda run: _most(run, 'memory'), "Memory is what the GPU's tensors took at most, from the logs."),
        'step': (lambda run: _cost_of(run, rows), 'Memory is that of a training step, from --cost.'),
        'process': (
            lambda run: _most(run, 'peak_rss_mib'),
            'Memory is the most that the process held, with libraries and data: no measure of a method, so there is no '
            'ratio. --cost brings one.',
        ),
    }
    for kind, (of, note) in ways.items():
        memory = {name: [of(run) for run in runs] for name, runs in methods.items()}
        if all(value is not None for values in memory.values() for value in values):
            return kind, memory, note
    return 'none', {name: [None] for name in methods}, 'Memory was not logged in all runs; --cost brings it.'


def _most(run: Run, key: str) -> float | None:
    return max((row[key] for row in run.train if key in row), default=None)


def _cost_of(run: Run, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Peak of the one row at the run's batch whose config makes the run's steps, else None."""
    batch = run.cfg.get('train_dataloader', {}).get('batch_size')
    rows = [row for row in rows if batch is None or row.get('batch', batch) == batch]
    found = [row['peak_mib'] for row in rows if _of_a_step(run) == _of_a_step(_as_run(row['config']))]
    return found[0] if len(found) == 1 else None


def _as_run(config: str) -> Run:
    path = ROOT / config
    return Run('', Config.fromfile(path) if path.is_file() else Config(), [], [])


def _of_a_step(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.settings.items() if key.startswith(OF_A_STEP) and not key.endswith('.lr')}


def _column(
    values: Mapping[str, Sequence[float | None]], bp: str | None, form: str, words: Callable[[float, float, str], str]
) -> dict[str, Number]:
    means = {name: _mean(own) for name, own in values.items()}
    reference = None if bp is None else means[bp]
    column = {}
    for name, own in values.items():
        mean, beside = means[name], ''
        if bp is not None and name != bp and mean is not None and reference is not None:
            beside = words(mean, reference, bp)
        column[name] = Number(spread(own, form), beside)
    return column


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _difference(value: float, reference: float, name: str) -> str:
    if value == reference:
        return f'as {name}'
    return f'{abs(value - reference):.3g} {"above" if value > reference else "below"} {name}'


def _ratio(value: float, reference: float, name: str) -> str:
    return f'{value / reference:.2f} x {name}' if reference else ''


def _no_words(*_: Any) -> str:
    return ''
