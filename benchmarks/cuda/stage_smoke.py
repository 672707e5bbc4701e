"""Whether the device computes what it should: operators and mixed precision in bfloat16, gradients, profiles."""

import copy
import math
from typing import Any

import torch
from checks import Checks
from meters import ranges
from mmcv_ops import OPS
from steps import Step, load, mix_on_a_cpu, use_tf32

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.step import TrainStep
from man_mm.engine import LocalAmpOptimWrapper

DEMO = 'demo/retinanet_r18_man_k4_shapes.py'
GRADIENTS = {
    'mobilenet': ('man/mobilenet-v2_man_k4_in1k.py', 'model.backbone', 4, 64),
    'swinir': ('man/swinir_x2_man_k4_div2k.py', 'model.generator', 1, 24),
}
EAGER = {'optim_wrapper.eager_step': True, 'optim_wrapper.clip_grad': None, 'model.backbone.auxiliary.head': 'private'}
STILL = {'swinir': {'model.generator.backbone.drop_path_rate': 0.0}}
"""Each device has random numbers of its own."""


def main(checks: Checks) -> None:
    use_tf32(False)
    if not checks.is_cuda:
        mix_on_a_cpu()
    size = 128 if checks.is_cuda else 64
    checks.run('bf16, eager steps', eager_bf16, checks.device, size)
    checks.run('bf16, not finite', nonfinite_bf16, checks.device, size)
    for name, op in OPS.items():
        checks.run(f'bf16, {name}', op, checks.device, limit=20)
    checks.run('profile', profile, checks.device, size, limit=20)
    for seed in (0, 1):
        for name, (path, net, num, size) in GRADIENTS.items():
            size = size if checks.is_cuda else 16
            for num_modules in (4, 1):
                options = {f'{net}.num_modules': num_modules, **STILL.get(name, {})}
                case = (path, options, num, size, seed, checks.device)
                checks.run(f'gradients, {name} K={num_modules} seed {seed}', compare, *case, limit=25, need=5)


def eager_bf16(device: str, size: int) -> dict[str, Any]:
    """Five steps without a scaler, every module stepped at once."""
    step = Step(load(DEMO, **EAGER), device, 2, size, lr=1e-3)
    step.use('bf16')
    losses = [float(step.bare()['loss'].detach()) for _ in range(5)]
    return dict(ok=all(map(math.isfinite, losses)) and step.optim_wrapper.eager_step, losses=losses)


def nonfinite_bf16(device: str, size: int) -> dict[str, Any]:
    """An infinite local loss is an error that names the module, and no weight has moved."""
    step = Step(load(DEMO), device, 2, size, lr=1e-3)
    step.use('bf16')
    assert isinstance(step.optim_wrapper, LocalAmpOptimWrapper)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    neck = step.local_backbone.auxiliaries[2].neck
    neck.register_forward_hook(lambda module, args, out: tuple(level * float('inf') for level in out))
    try:
        step.bare()
    except FloatingPointError as error:
        kept = all(torch.equal(p, before[name]) for name, p in step.model.named_parameters())
        return dict(ok='module 2' in str(error) and kept, said=str(error)[:200])
    return dict(ok=False, said='no error')


def profile(device: str, size: int) -> dict[str, Any]:
    """`torch.profiler` names every part of a step."""
    step = Step(load(DEMO), device, 2, size)
    step.bare()
    seen = ranges(step.bare, device)
    parts = ('forward', 'local loss', 'backward')
    modules = step.local_backbone.local_modules
    expected = [f'{module}: {part}' for module in modules[:-1] for part in parts] + [f'{modules[-1]}: forward']
    missing = [name for name in expected if name not in seen]
    return dict(ok=not missing, missing=missing, expected=len(expected))


def compare(path: str, options: dict[str, Any], num: int, size: int, seed: int, device: str) -> dict[str, Any]:
    """Gradients of a step against those of a CPU in float64: in float32 on the CPU, the yardstick, and on the device in
    float32 and in float64, where only a fault can be seen.
    """
    cfg = load(path, **options)

    def gradients(place: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return first_gradients(cfg, place, dtype, num, size, seed)

    exact = gradients('cpu', torch.float64)
    found = {
        'cpu float32': distance(gradients('cpu', torch.float32), exact),
        f'{device} float32': distance(gradients(device, torch.float32), exact),
        f'{device} float64': distance(gradients(device, torch.float64), exact),
    }
    own, other, double = (row['error'] for row in found.values())
    return dict(ok=double < 1e-8 and other < 10 * own, **found)


def first_gradients(
    cfg: Any, device: str, dtype: torch.dtype, num: int, size: int, seed: int
) -> dict[str, torch.Tensor]:
    """Of one step, by the name of the parameter, on the CPU in float64."""
    step = TrainStep(copy.deepcopy(cfg), device, seed)
    step.model.to(dtype)
    kept: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        named = step.model.named_parameters()
        kept.update({name: p.grad.detach().double().cpu() for name, p in named if p.grad is not None})

    step.optimizer.register_step_pre_hook(keep)
    step(synthetic_batch(cfg, num, (size, size)))
    return kept


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Norm of the difference to that of the whole, and the parameter where it is the largest part of its own norm."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:5]
    length = _norm(theirs.values())
    error = _norm(ours[name] - tensor for name, tensor in theirs.items())
    parts = {
        name: float((ours[name] - tensor).norm() / tensor.norm())
        for name, tensor in theirs.items()
        if float(tensor.norm()) > 1e-3 * length
    }
    worst = max(parts, key=parts.__getitem__)
    return dict(error=error / length, worst=[parts[worst], worst])


def _norm(tensors: Any) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
