"""What each of the two processes of the DDP tests runs."""

import functools
import os

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from man_mm.engine import LocalAmpOptimWrapper, LocalDistributedDataParallel

from .classification import batch as labelled
from .classification import classifier, make
from .detection import batch, build, small_retinanet
from .precision import mixed_precision_for_tests
from .training import SpyWrapper, Trainer

WORLD = 2
WRAPPERS = {
    'at the end': functools.partial(MMDistributedDataParallel, find_unused_parameters=True),
    'by module': LocalDistributedDataParallel,
}
SHARED = dict(
    num_modules=4,
    auxiliary=dict(cut_stage=False),
    model_options=dict(share='stage', partition=['layer1.0', 'layer1.1', 'layer2.1']),
)
"""Of four modules, of which the first two have one auxiliary."""
FOLLOWERS = dict(auxiliary=dict(follow='ema', follow_momentum=0.5))
GRADIENTS = {
    'shared': {},
    'private, per module clip': dict(auxiliary=dict(head='private'), clip_grad=dict(max_norm=0.05, per_module=True)),
    'shared neck, mean': dict(auxiliary=dict(neck='shared', shared_head_grad='mean')),
    'last': dict(num_modules=2, auxiliary=dict(shared_head_grad='last')),
    'every unit': dict(num_modules=7),
    'back-propagation': dict(num_modules=1),
    'shared auxiliaries': SHARED,
}
STEPS = {
    'plain': {},
    'followers': FOLLOWERS,
}
EAGER = {
    'eager, clipped': dict(clip_grad=dict(max_norm=0.05, per_module=True)),
    'eager, private': dict(auxiliary=dict(head='private')),
    'eager, shared auxiliaries': SHARED,
    'eager, followers': FOLLOWERS,
}
RULES = ('man', 'dgl', 'infopro', 'auglocal')
"""Those whose loss is a mean over images; PredSim's and the contrastive one compare the images of a batch."""
ONE_WAY = {
    'shared neck, mean': 'by module',
    'last': 'by module',
    'every unit': 'by module',
    'followers': 'by module',
    'dgl': 'by module',
    'infopro': 'at the end',
    'auglocal': 'by module',
    'sizes': 'by module',
    'synchronised norms': 'by module',
}
"""Scenarios that gradients are reduced in one way in; all others are for both."""
REFUSED = {'plain': {}, 'static_graph': dict(find_unused_parameters=True, static_graph=True)}
SIZES = (64, 96)
"""Of the images of the two ranks, in px."""


def takes(name, way):
    """Whether a scenario is for a way of reducing gradients."""
    return ONE_WAY.get(name, way) == way


def detector(num_modules=3, auxiliary=None, model_options=None, ddp=WRAPPERS['at the end'], seed=0, **options):
    """A Trainer of the tiny RetinaNet; `ddp=None` is a single process."""
    model = build(small_retinanet(num_modules, auxiliary=auxiliary, **(model_options or {})), seed)
    return Trainer(ddp(model) if ddp else model, **options)


def rule(name, ddp):
    """A Trainer of a tiny classifier, its norms fixed."""
    model = make(classifier(name))
    run = Trainer(ddp(model) if ddp else model)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
    return run


def after_steps(run, first, num):
    """Weights after two steps on `num` images each, from image `first` on."""
    for step in range(2):
        run.step(batch(num, first=WORLD * step + first))
    return dict(run.host.state_dict())


def mixed_gradients(ddp, data):
    """Gradients of a step in bfloat16 with a loss scale."""
    with mixed_precision_for_tests():
        run = detector(ddp=ddp, wrapper=LocalAmpOptimWrapper, dtype='bfloat16', loss_scale=dict(init_scale=2.0**10))
        run.step(data)
    return run.gradients


class SyncedNorm(nn.BatchNorm2d):
    """What torch's SyncBatchNorm computes in training, which has kernels for GPUs alone."""

    def forward(self, x):
        moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        mean, square = (all_reduce(moments) / WORLD)[..., None, None]
        scale = (square - mean.square() + self.eps).rsqrt() * self.weight[:, None, None]
        return (x - mean) * scale + self.bias[:, None, None]


def synchronised(ddp):
    """A Trainer of the tiny RetinaNet whose norms see the images of all processes."""
    run = detector(ddp=ddp, model_options=dict(backbone=dict(norm_eval=False)))
    for layer in run.host.modules() if ddp else ():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SyncedNorm
    return run


def gradients_alive(rank, **options):
    """Bytes of gradients after each backward of a step, the main one's at the end."""
    alive = []

    def after(module):
        alive.append(sum(p.grad.nbytes for p in run.host.parameters() if p.grad is not None))

    run = detector(ddp=LocalDistributedDataParallel, wrapper=SpyWrapper, after=after, **options)
    run.step(batch(1, first=rank))
    return alive


def message(action, *args, **kwargs):
    try:
        action(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return None


def train_without_checks(ddp):
    """Gradients under a DDP wrapper that the hook refuses, with the hook's check taken away: how wrong they are."""
    from man_mm.engine import feature_bank_hook

    check, feature_bank_hook._check_wrapper = feature_bank_hook._check_wrapper, lambda model: None
    try:
        run = detector(ddp=ddp)
        run.step(batch(1, first=dist.get_rank()))
        return run.gradients
    finally:
        feature_bank_hook._check_wrapper = check


def scenarios(rank, way):
    """Results of all scenarios that a way of reducing takes, by name."""
    ddp, results = WRAPPERS[way], {}
    for name, options in GRADIENTS.items():
        if takes(name, way):
            run = detector(ddp=ddp, seed=rank, **options)  # DDP starts every rank from the weights of the first one
            run.step(batch(1, first=rank))
            results[name] = run.gradients
    for name in RULES:
        if takes(name, way):
            run = rule(name, ddp)
            run.step(labelled(2, seed=rank))
            results[name] = run.gradients
    run = detector(ddp=ddp, accumulative_counts=2)
    run.step(batch(1, first=2 * rank), batch(1, first=2 * rank + 1))
    results['accumulated'] = run.gradients
    if takes('sizes', way):
        run = detector(ddp=ddp)
        run.step(batch(1, first=rank, size=SIZES[rank]))
        results['sizes'] = run.gradients
    for name, options in STEPS.items():
        if takes(name, way):
            results[name] = after_steps(detector(ddp=ddp, **options), rank, 1)
    results['mixed'] = mixed_gradients(ddp, batch(1, first=rank))
    if takes('synchronised norms', way):
        run = synchronised(ddp)
        run.step(batch(1, first=rank))
        results['synchronised norms'] = run.gradients
    return results


def run(rank, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=WORLD)
    results = {way: scenarios(rank, way) for way in WRAPPERS}
    for name, options in EAGER.items():
        trainer = detector(ddp=LocalDistributedDataParallel, eager_step=True, **options)
        results[name] = after_steps(trainer, rank, 1)
    private = dict(auxiliary=dict(head='private'))
    results['alive'] = [gradients_alive(rank, eager_step=eager, **private) for eager in (False, True)]
    results['unchecked'] = train_without_checks(MMDistributedDataParallel)
    for name, options in REFUSED.items():
        results[f'refused {name}'] = message(detector, ddp=functools.partial(MMDistributedDataParallel, **options))
    results['refused static_graph by module'] = message(
        detector, ddp=functools.partial(LocalDistributedDataParallel, static_graph=True)
    )
    results['eager at the end'] = message(lambda: detector(eager_step=True).step(batch(1)))
    results['no wrapper'] = message(detector, wrapper=OptimWrapper)
    torch.save(results, os.path.join(folder, f'{rank}.pth'))
    dist.destroy_process_group()
