"""What each of the two processes of the DDP tests runs."""

import os

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from ..models import batch, build, retinanet
from ..training import Trainer

WORLD = 2
GRADIENTS = {
    'shared': {},
    'private': dict(auxiliary=dict(head='private')),
    'shared neck': dict(auxiliary=dict(neck='shared')),
    'mean': dict(auxiliary=dict(shared_head_grad='mean')),
    'last': dict(auxiliary=dict(shared_head_grad='last')),
    'every unit': dict(num_modules=9),
    'shared auxiliaries': dict(num_modules=9, auxiliary=dict(cut_stage=False), model_options=dict(share='stage')),
    'per module clip': dict(clip_grad=dict(max_norm=0.05, per_module=True)),
}
TURNS = dict(auxiliary=dict(head='private'), model_options=dict(train_every=2))
REFUSED = {'plain': {}, 'static_graph': dict(find_unused_parameters=True, static_graph=True)}


def distributed(num_modules=4, auxiliary=None, ddp=None, model_options=None, **options):
    """A Trainer of the tiny RetinaNet in DDP."""
    model = build(retinanet(num_modules, auxiliary=auxiliary, **(model_options or {})))
    ddp = dict(find_unused_parameters=True) if ddp is None else ddp
    return Trainer(MMDistributedDataParallel(model, **ddp), **options)


def accumulated(rank):
    run = distributed(accumulative_counts=2)
    run.step(batch(1, first=2 * rank), batch(1, first=2 * rank + 1))
    return run.gradients


def weights_after_steps(rank, **options):
    run = distributed(**options)
    for step in range(3):
        run.step(batch(1, first=2 * step + rank))
    return dict(run.host.state_dict())


def message(action, *args, **kwargs):
    try:
        action(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return None


def train_without_checks(ddp):
    """Gradients under a DDP wrapper that the hook refuses, with the hook's check taken away: how wrong they are."""
    from man_mm.engine import hooks

    check, hooks._check_wrapper = hooks._check_wrapper, lambda model: None
    try:
        run = distributed(ddp=ddp)
        run.step(batch(1, first=dist.get_rank()))
        return run.gradients
    finally:
        hooks._check_wrapper = check


def run(rank, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=WORLD)
    results = {}
    for name, options in GRADIENTS.items():
        trainer = distributed(**options)
        trainer.step(batch(1, first=rank))
        results[name] = trainer.gradients
    results['accumulated'] = accumulated(rank)
    results['weights'] = weights_after_steps(rank)
    results['weights of turns'] = weights_after_steps(rank, **TURNS)
    results['unchecked'] = train_without_checks({})
    for name, options in REFUSED.items():
        results[f'refused {name}'] = message(distributed, ddp=options)
    results['eager'] = message(lambda: distributed(eager_step=True).step(batch(1)))
    results['no wrapper'] = message(distributed, wrapper=OptimWrapper)
    torch.save(results, os.path.join(folder, f'{rank}.pth'))
    dist.destroy_process_group()
