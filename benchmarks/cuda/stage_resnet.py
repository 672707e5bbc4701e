"""ResNet-32 in 16 modules on 1,024 images of 32 px by every rule; a step as one CUDA graph; blocks compiled."""

import time
from typing import Any
from unittest.mock import patch

import torch
from checks import Checks, Skip
from meters import kernels, peak, times_in_turns
from steps import Step, Steps, load, mix_on_a_cpu, use_tf32

from man_mm.engine import LocalOptimWrapper
from man_mm.readout.mmpretrain import ClassifierReadout

RULES = dict(
    bp='bp/resnet32_bp_cifar10.py',
    man='man/resnet32_man_k16_cifar10.py',
    manlean='man/resnet32_manlean_k16_cifar10.py',
    dgl='dgl/resnet32_dgl_k16_cifar10.py',
    predsim='predsim/resnet32_predsim_k16_cifar10.py',
    infopro='infopro/resnet32_infopro_k16_cifar10.py',
    auglocal='auglocal/resnet32_auglocal_k16_cifar10.py',
)
PRECISIONS = ('bf16', 'tf32')


def main(checks: Checks) -> None:
    """In channels_last, which is twice to six times as fast here."""
    use_tf32(True)
    if not checks.is_cuda:
        mix_on_a_cpu()

    def make(name: str) -> Step:
        step = Step(load(RULES[name]), checks.device, 1024 if checks.is_cuda else 4, 32)
        step.use_channels_last()
        return step

    steps = Steps(make)
    rules = RULES if checks.is_cuda else ('bp', 'man')
    built = [rule for rule in rules if checks.run(f'ResNet-32 {rule}', alone, steps, rule, limit=15).get('ok')]
    for precision in PRECISIONS:
        checks.run(f'ResNet-32 {precision}', in_turns, steps, built, precision, limit=25, need=5)
    for rule in ('man', 'bp'):
        for precision in PRECISIONS:
            checks.run(f'ResNet-32 {rule} {precision}, CUDA graph', graph, steps, rule, precision, limit=15, need=3)
    for rule in ('man', 'bp'):
        checks.run(f'ResNet-32 {rule}, kernels', look, steps, rule, need=3)
    for rule in ('bp', 'man'):  # last, since it changes the models
        checks.run(f'ResNet-32 {rule}, compiled blocks', compiled, steps, rule, limit=60, need=20)


def alone(steps: Steps, rule: str) -> dict[str, Any]:
    """Build one; its peak by the allocator, above what was there before."""
    before = torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0
    step = steps[rule]
    found = times_in_turns({rule: step.bare}, step.device, rounds=1)[rule]
    if step.device == 'cpu':
        return dict(ms=found['ms'])
    return dict(ms=found['ms'], tf32_peak_mib=peak(step.bare, step.device)['peak_mib'] - before)


def in_turns(steps: Steps, names: list[str], precision: str) -> dict[str, Any]:
    for name in names:
        steps[name].use(precision)
    rounds, burst = (1, 1) if steps[names[0]].device == 'cpu' else (5, 3)
    rows = times_in_turns({name: steps[name].bare for name in names}, steps[names[0]].device, rounds, burst, warm=2)
    return dict(rows=rows)


def look(steps: Steps, rule: str) -> dict[str, Any]:
    steps[rule].use('bf16')
    steps[rule].bare()
    return kernels(steps[rule].bare, steps[rule].device)


def graph(steps: Steps, rule: str, precision: str) -> dict[str, Any]:
    """A whole step, local backwards and optimizer included, replayed as one CUDA graph.

    The two checks that read values off the device are left out: a graph cannot hold them.
    """
    step = steps[rule]
    if step.device == 'cpu':
        raise Skip('needs a GPU')
    step.use(precision)
    unchecked = patch.multiple(ClassifierReadout, check_batch=lambda *_: None)
    with unchecked, patch.object(LocalOptimWrapper, '_check_finite', lambda _: None):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                logs = step.bare()
        torch.cuda.current_stream().wait_stream(side)
        expected = float(logs['loss'].detach())
        step.optimizer.zero_grad(set_to_none=True)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            logs = step.bare()
    rows = times_in_turns(dict(eager=step.bare, graph=recorded.replay), step.device, burst=3)
    loss = float(logs['loss'].detach())
    step.optimizer.zero_grad(set_to_none=True)  # the graph's own memory goes with it
    return dict(ok=abs(loss - expected) < 0.05 * abs(expected), loss=loss, eager_loss=expected, rows=rows)


def compiled(steps: Steps, rule: str) -> dict[str, Any]:
    """`torch.compile` of every residual block of the backbone; auxiliaries are left as they are."""
    step = steps[rule]
    step.use('bf16')
    backbone = step.local_backbone or step.model.backbone
    net = getattr(backbone, 'backbone', backbone)
    blocks = [block for block in net.modules() if type(block).__name__ in ('BasicBlock', 'ResidualBlock')]
    rounds, burst = (1, 1) if step.device == 'cpu' else (5, 3)
    eager = times_in_turns(dict(eager=step.bare), step.device, rounds, burst)['eager']
    torch._dynamo.config.cache_size_limit = 64
    for block in blocks:
        block.compile(backend='inductor' if step.device != 'cpu' else 'eager')
    begin = time.perf_counter()
    step.bare()
    took = time.perf_counter() - begin
    found = times_in_turns(dict(compiled=step.bare), step.device, rounds, burst)['compiled']
    return dict(blocks=len(blocks), compile_s=took, eager_ms=eager['ms'], ms=found['ms'], issue_ms=found['issue_ms'])
