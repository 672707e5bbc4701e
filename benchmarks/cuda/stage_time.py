"""A step of RetinaNet-R50 at 512 px, batch 8: back-propagation, all of it recomputed, lean MAN, in three precisions."""

from collections.abc import Callable
from typing import Any

from checks import Checks
from meters import kernels, times_in_turns, waits
from steps import Step, Steps, load, mix_on_a_cpu, use_tf32

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
