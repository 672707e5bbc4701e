"""The allocator's peak of configs of docs/memory.md beside the estimate, and what is between the two."""

import json
from typing import Any

import torch
from checks import Checks, Skip
from meters import MIB, operator_peaks, peak
from steps import ROOT, Step, load, mix_on_a_cpu, use_tf32

PAPER = dict(r34='man_k17', r50='man_k17', r101='man_k34', r152='man_k51')
"""What `as in the paper` is in the tables, by depth."""
EXPLAINED = ('r50_bp-ckptall', 'r50_manlean_k4', 'r50_manlean_k17')
ROWS = [  # in the order of what is asked first: a stage that runs out of time loses the end
    ('r50_bp-amp', 8),
    ('r50_bp-ckptall-amp', 8),
    ('r50_manlean-amp_k17', 8),
    ('r34_man_k17', 64),
    ('r50_bp', 64),
    ('r34_bp', 8),
    ('r34_manlean_k4', 8),
    ('r34_manlean_k17', 8),
    ('r50_man_k17', 64),
    ('r101_bp', 8),
    ('r101_bp-ckptall', 8),
    ('r101_manlean_k4', 8),
    ('r101_manlean_k34', 8),
    ('r34_man_k17', 8),
    ('r50_man-amp_k17', 8),
    ('r50_dgl_k17', 8),
    ('r50_man-ckpt_k17', 8),
    ('r50_manlean-copy_k17', 8),
    ('r152_bp', 8),
    ('r152_manlean_k4', 8),
    ('r152_manlean_k51', 8),
    ('r101_man_k34', 8),
    ('r152_man_k51', 8),
]


def main(checks: Checks) -> None:
    """First why lean and recomputed steps take more than was estimated, then the rows."""
    use_tf32(True)
    if not checks.is_cuda:
        mix_on_a_cpu()
    for name in EXPLAINED if checks.is_cuda else ('r34_bp',):
        checks.run(f'{name} x8, operators', explain, checks, name, limit=30, need=5)
    for name, num in ROWS if checks.is_cuda else (('r34_bp', 8), ('r50_bp-amp', 8)):
        checks.run(f'{name} x{num}', row, checks, name, num, limit=25, need=4)


def estimate(name: str, num: int) -> float:
    """MiB at the peak, as docs/data has them; `name` as in `r50_man_k17`."""
    depth, kind = name.split('_', 1)
    rows = json.loads((ROOT / f'docs/data/memory_{depth}_batch{num}.json').read_text())['rows']
    known = {row['config'].removeprefix('configs/'): row['peak_mib'] for row in rows}
    if kind == PAPER[depth] and 'as in the paper' in known:
        return known['as in the paper']
    return known[path(name)]


def path(name: str) -> str:
    """Of a config, below `configs/`."""
    rule = name.split('_')[1].split('-')[0].removesuffix('lean')
    return f'{rule}/retinanet_{name}_coco.py'


def row(checks: Checks, name: str, num: int) -> dict[str, Any]:
    """A step's peak, and what the process held before it: cuBLAS's workspace."""
    return measure(checks, name, num)[0]


def measure(checks: Checks, name: str, num: int) -> tuple[dict[str, Any], Step]:
    """The row of a config, and its step."""
    before = torch.cuda.memory_allocated() / MIB if checks.is_cuda else 0.0
    expected = estimate(name, num)
    step = Step(load(path(name)), checks.device, *((num, 512) if checks.is_cuda else (1, 64)))
    step.settle()
    if not checks.is_cuda:
        raise Skip(f'needs a GPU; the estimate is {expected} MiB')
    found = peak(step.bare, step.device)
    error = 100 * (found['peak_mib'] / expected - 1)
    return dict(estimate_mib=expected, before_mib=before, **found, error_percent=error), step


def explain(checks: Checks, name: str) -> dict[str, Any]:
    """A row, the operators that take scratch memory, and the peak with cuDNN's algorithms chosen by trial."""
    found, step = measure(checks, name, 8)
    found['operators'] = operator_peaks(step.bare, step.device)
    torch.backends.cudnn.benchmark = True
    try:
        step.bare()
        found['by_trial'] = peak(step.bare, step.device)
    finally:
        torch.backends.cudnn.benchmark = False
    return found
