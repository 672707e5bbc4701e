"""What each of the two processes of the pipeline's tests runs."""

import os

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from man_mm.engine import LocalPipeline
from man_mm.engine.pipeline.alone import alone, group_of_one
from man_mm.engine.pipeline.checks import refuse_split_data
from man_mm.runs.compat import prepare_cpu_processes

from .classification import batch as labelled
from .classification import classifier, make
from .detection import batch, build, small_retinanet
from .runs import run_config, runner
from .training import Trainer, fake_runner

WORLD = 2
STEPS = 4
PRIVATE = dict(head='private')
NORMS = dict(norm_eval=False)
DETECTORS = {
    'balanced, eager': dict(trainer=dict(eager_step=True)),
    'split by hand': dict(split=[1, 3]),
    'accumulated, one batch ahead': dict(split=[3, 1], in_flight=1, trainer=dict(accumulative_counts=2)),
    'AdamW, clipped by module, auxiliaries without bank': dict(
        bank=False, trainer=dict(optimizer=torch.optim.AdamW, clip_grad=dict(max_norm=0.05, per_module=True))
    ),
    'shared auxiliaries': dict(
        share='stage', partition=['layer1.0', 'layer1.1', 'layer2.1'], auxiliary=dict(cut_stage=False)
    ),
}
RULES = ('man', 'predsim', 'infopro', 'auglocal')
HUB = ('train/local_00/total', 'train/local_02/cls', 'train/loss', 'train/loss_bbox', 'train/lr')


def detector(num_modules=4, auxiliary=None, trainer=None, split=None, in_flight=None, **options):
    """A Trainer of the tiny RetinaNet with private heads and running norms, and what the pipeline is told."""
    cfg = small_retinanet(num_modules, backbone=NORMS, auxiliary={**PRIVATE, **(auxiliary or {})}, **options)
    told = {key: value for key, value in dict(split=split, in_flight=in_flight).items() if value is not None}
    return build(cfg), dict(trainer or {}), told


def spread(model, options, told):
    """A Trainer of this process' modules."""
    run = Trainer(LocalPipeline(model, **told), **options)
    run.model.start(run.optim_wrapper)
    return run


def batches(data, rank=0):
    """The batches of all steps, of different images; only the first process has any."""
    return [None if rank else data(step) for step in range(STEPS)]


def images(step):
    return batch(1, first=step)


def classes(step):
    return labelled(4, seed=step)


def result(run):
    """All weights, buffers and the optimizer's state, as a checkpoint would have them."""
    if isinstance(run.model, LocalPipeline):
        run.model.gather()
        with run.model.whole_state(run.optim_wrapper):
            return dict(run.host.state_dict()), run.optimizer.state_dict()
    return dict(run.host.state_dict()), run.optimizer.state_dict()


def runs_ahead(rank):
    """The first process makes as many steps as may be on their way before the second one makes its first."""
    model, options, _ = detector()
    run = spread(model, options, dict(split=[2, 2], in_flight=2))
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(['ahead'])
    on_their_way = []
    for step, data in enumerate(batches(images, rank)):
        run.step(data)
        on_their_way.append(len(run.model._outbox._on_their_way))
        if rank == 0 and step == 1:
            store.set('ahead', 'yes')
    return result(run), on_their_way


def as_if_alone(rank):
    """World size and sum over the world, inside and outside."""
    own, values = group_of_one(), []
    for group in (own, dist.group.WORLD):
        with alone(group):
            total = torch.tensor([1.0 + rank])
            dist.all_reduce(total)
            values.append((dist.get_world_size(), total.item()))
    return values


def config(data_root, work_dir, epochs, **options):
    """A run of the tiny detector, with a moving average."""
    model = small_retinanet(4, backbone=NORMS, auxiliary=PRIVATE)
    cfg = run_config(data_root, work_dir, model, epochs, hooks=[dict(type='EMAHook')], **options)
    cfg['param_scheduler'][1]['end'] = 2  # MMEngine's default is the last epoch: a run of one would differ
    cfg['default_hooks']['checkpoint'] = dict(type='man_mm.SafeCheckpointHook', interval=1)
    return cfg


def pipeline_config(*args, **options):
    """The same, spread over processes."""
    cfg = config(*args, launcher='pytorch', model_wrapper_cfg=dict(type='man_mm.LocalPipeline'), **options)
    cfg['custom_hooks'].append(dict(type='man_mm.PipelineHook'))
    cfg['train_dataloader']['sampler']['type'] = 'man_mm.WholeSampler'
    return Config(cfg)


def message(action):
    try:
        action()
    except ValueError as error:
        return str(error)
    return None


def run(rank, port, folder, data_root, checkpoint):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD))
    os.environ['LOCAL_RANK'] = str(rank)
    torch.set_num_threads(1)
    cfg = pipeline_config(data_root, f'{folder}/run', 1)
    prepare_cpu_processes(cfg)
    results = {'alone': as_if_alone(rank), 'ahead': runs_ahead(rank)}
    for name, options in DETECTORS.items():
        trainer = spread(*detector(**options))
        trainer.step(*batches(images, rank))
        results[name] = result(trainer)
    for name in RULES:
        trainer = spread(make(classifier(name)), {}, {})
        trainer.step(*batches(classes, rank))
        results[name] = result(trainer)
    model, options, _ = detector()
    results['no hook'] = message(lambda: Trainer(LocalPipeline(model), **options).step(None))
    loader = DataLoader(range(4), sampler=DefaultSampler(range(4)))
    results['sampler'] = message(lambda: refuse_split_data(fake_runner(train_dataloader=loader, auto_scale_lr=None)))
    runner(cfg).train()
    resumed = runner(pipeline_config(data_root, f'{folder}/resumed', 2, resume=True, load_from=checkpoint))
    resumed.train()
    results['read'] = [batch is not None for batch in resumed.train_dataloader]
    torch.save(results, f'{folder}/{rank}.pth')
    dist.destroy_process_group()
