"""A step of RetinaNet-R50 at 512 px, batch 8: back-propagation, all of it recomputed, lean MAN, in three precisions."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from checks import Checks
from meters import kernels, times_in_turns, waits
from steps import Step, Steps, load, mix_on_a_cpu, use_tf32

from man_mm.local import LocalModule, listen_to_phases
from man_mm.readout.mmdet import DetectorReadout

R50 = {
    'BP': 'bp/retinanet_r50_bp_coco.py',
    'lean K=4': 'man/retinanet_r50_manlean_k4_coco.py',
    'lean K=17': 'man/retinanet_r50_manlean_k17_coco.py',
    'BP recomputed': 'bp/retinanet_r50_bp-ckptall_coco.py',
    'copied K=4': 'man/retinanet_r50_manlean-copy_k4_coco.py',
}
SMALL = {'BP': 'demo/retinanet_r18_bp_shapes.py', 'lean K=4': 'demo/retinanet_r18_man_k4_shapes.py'}
ROUNDS = 5


def main(checks: Checks) -> None:
    """Build all, then time them in turns: a step of each in a round."""
    use_tf32(True)
    configs, num, size = (R50, 8, 512) if checks.is_cuda else (SMALL, 1, 64)
    if not checks.is_cuda:
        mix_on_a_cpu()
    steps = Steps(lambda name: Step(load(configs[name]), checks.device, num, size))
    built = [name for name in configs if checks.run(f'R50 {name}', alone, steps, name, limit=25).get('ok')]
    for name in built:
        if name in ('BP', 'lean K=4', 'lean K=17'):
            checks.run(f'R50 {name}, waits', look, waits, steps[name], limit=10)
    for precision in ('tf32', 'bf16', 'fp16'):
        checks.run(f'R50 {precision}', in_turns, steps, built, precision, limit=40, need=6)
    for name in built:
        if 'K=' in name:
            checks.run(f'R50 {name}, targets once a batch', with_and_without_memo, steps[name], limit=15, need=4)
            checks.run(f'R50 {name}, phases', phases, steps[name], limit=10, need=3)
    for name in built:
        if name != 'BP recomputed':
            checks.run(f'R50 {name}, kernels', look, kernels, steps[name], limit=20, need=4)


def alone(steps: Steps, name: str) -> dict[str, Any]:
    """Build one, and time it alone."""
    step = steps[name]
    found = times_in_turns({name: step.bare}, step.device, rounds=2)[name]
    return dict(ms=found['ms'], issue_ms=found['issue_ms'], loss=float(step.bare()['loss'].detach()))


def look(how: Callable[..., dict[str, Any]], step: Step) -> dict[str, Any]:
    step.use('tf32')
    step.bare()
    return how(step.bare, step.device)


def with_and_without_memo(step: Step) -> dict[str, Any]:
    """The same step with targets assigned once for all modules, and anew for each, in turns."""
    step.use('tf32')

    def anew() -> None:
        with mock.patch.object(DetectorReadout, 'open_batch', lambda readout, targets: None):
            step.bare()

    return times_in_turns({'anew': anew, 'once': step.bare}, step.device, ROUNDS if step.device != 'cpu' else 1)


def phases(step: Step) -> dict[str, Any]:
    """Milliseconds of a step by phase, summed over modules: the device is waited for where a phase begins."""
    step.use('tf32')
    step.bare()
    taken: Counter[str] = Counter()
    begun = ['before', time.perf_counter()]

    def begin(name: str, where: Any) -> None:
        if step.device != 'cpu':
            torch.cuda.synchronize()
        now = time.perf_counter()
        taken[begun[0]] += 1e3 * (now - begun[1])
        begun[:] = name if isinstance(where, LocalModule) else str(where), now

    with listen_to_phases(begin):
        step.bare()
        begin('', '')
    return dict(taken)


def in_turns(steps: Steps, names: list[str], precision: str) -> dict[str, Any]:
    """Several in one precision; a model that cannot is left out and named."""
    calls, errors = {}, {}
    for name in names:
        step = steps[name]
        step.use(precision)
        try:
            step.bare()
        except Exception as error:
            errors[name] = f'{type(error).__name__}: {error}'[:200]
        else:
            calls[name] = step.bare
    rows = times_in_turns(calls, step.device, ROUNDS if step.device != 'cpu' else 1)
    return dict(ok=not errors, errors=errors, rows=rows)
