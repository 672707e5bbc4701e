"""What each of the two processes of the fault tests runs."""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from .detection import batch, build, retinanet
from .detectors import detector
from .training import Trainer, poison

WORLD = 2
BATCHES = {
    'no boxes on rank 1': [dict(num=1), dict(num=1, first=1, boxes=())],
    'no boxes anywhere': [dict(num=1, boxes=()), dict(num=1, first=1, boxes=())],
    'other batch sizes': [dict(num=1), dict(num=3, first=1)],
    'other image sizes': [dict(num=1), dict(num=1, first=1, size=96)],
}
NORMALISED_OVER_RANKS = 'fcos'


def distributed(cfg, **options):
    model = MMDistributedDataParallel(build(cfg), find_unused_parameters=True)
    return Trainer(model, **options)


def message(action, *arguments, **options):
    try:
        action(*arguments, **options)
    except ValueError as error:
        return str(error)
    return None


def other_setups(rank):
    """What differs between ranks without changing the shape of a parameter, which DDP itself would refuse."""
    mine = [dict(lr=0.01), dict(lr=0.02)][rank]
    cuts = [['layer1.0', 'layer1.1', 'layer3.1'], ['layer1.0', 'layer1.1', 'layer3.0']][rank]
    grads = [dict(shared_head_grad='sum'), dict(shared_head_grad='mean')][rank]
    return {
        'lr': message(distributed, retinanet(4), **mine),
        'bank': message(distributed, retinanet(4, bank=rank == 0)),
        'partition': message(distributed, retinanet(4, auxiliary=dict(cut_stage=False), partition=cuts)),
        'auxiliary': message(distributed, retinanet(4, auxiliary=grads)),
        'clip': message(distributed, retinanet(4), clip_grad=dict(max_norm=1.0 + rank)),
    }


def fails_alone(rank):
    """Rank 1 raises in the middle of a step and ends; returns how rank 0 learns of it, and after how many seconds."""
    run = distributed(retinanet(4))
    run.step(batch(1))
    if rank == 1:
        poison(run.host.backbone.auxiliaries[1].neck)
    start = time.monotonic()
    try:
        run.step(batch(1))
    except (RuntimeError, FloatingPointError) as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return None


def run(rank, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD))
    dist.init_process_group('gloo', rank=rank, world_size=WORLD)
    results = {}
    for name, batches in BATCHES.items():
        trainer = distributed(retinanet(4))
        trainer.step(batch(**batches[rank]))
        results[name] = trainer.gradients
    trainer = distributed(detector(NORMALISED_OVER_RANKS))
    trainer.step(batch(1, boxes=()) if rank else batch(1))
    results[NORMALISED_OVER_RANKS] = trainer.gradients
    results['setups'] = other_setups(rank)
    results['alone'] = fails_alone(rank)
    torch.save(results, Path(folder) / f'{rank}.pth')
    os._exit(0)  # the process group has lost a member: there is no orderly end
