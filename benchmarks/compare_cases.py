"""Trains the tiny models of `compare_models.py` for a few steps each and writes down what came out, for comparison.

    python compare_cases.py FOLDER [--only REGEX]      # with PYTHONPATH at the checkout to run

Writes FOLDER/<case>.pth: a dict from a name to a tensor, of gradients as the optimizer saw them, losses, log, weights,
optimizer state and outputs. Whole runs by MMEngine's Runner, by configs alone: it names nothing inside the package, so
that it runs on any two commits. `compare_commits.py` starts it.
"""

import argparse
import copy
import functools
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from compare_models import FPN, LIGHT_TAIL, RETINA_HEAD, Cfg, classifier, classifier_size, detector, editor
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

import man_mm

STEPS = 2
WORLD = 2
SCOPES = dict(detector='mmdet', classifier='mmpretrain', editor='mmagic')
ERROR = 'error'
_NUMBER = count()


@dataclass
class Case:
    """A training run.

    Args:
        model: Config of the model; its kind follows from its type.
        wrapper: Keys of the optim wrapper.
        hooks: Custom hooks beside the feature bank's.
        ddp: Config of the model wrapper: the case runs in two processes.
        size: Of the images in px, where it is not a detector's.
        then: What is done with the trained model: `copy` trains a deep copy of it, `resume` goes on from the
            checkpoint, `load` begins anew from its weights.
        has_onednn: False leaves oneDNN out: its bf16 convolutions are at fault on some CPUs (torch 2.11).
    """

    model: Cfg
    wrapper: Cfg = field(default_factory=dict)
    hooks: Sequence[Cfg] = ()
    ddp: Cfg | None = None
    size: int = 16
    then: str | None = None
    has_onednn: bool = True

    @property
    def saves(self) -> bool:
        """Whether its checkpoint holds what the model and the optimizer do not, or is used."""
        return self.is_pipeline or self.then is not None or any(hook['type'] == 'EMAHook' for hook in self.hooks)

    @property
    def is_pipeline(self) -> bool:
        """Whether each process has modules of its own."""
        return self.ddp is not None and self.ddp['type'] == 'man_mm.LocalPipeline'

    @property
    def kind(self) -> str:
        """What the model is."""
        return {'ImageClassifier': 'classifier', 'BaseEditModel': 'editor'}.get(self.model['type'], 'detector')


def _detectors() -> Iterator[tuple[str, Case]]:
    private, stage = dict(head='private'), dict(num_modules=9, share='stage')
    slim = dict(type='man_mm.SlimSLM', channels=8)
    pyramid = dict(type='man_mm.DGLPyramid', channels=8, head='private')
    own_head = dict(bbox_head={**RETINA_HEAD, 'stacked_convs': 2})
    small_neck = {**FPN, 'out_channels': 4}
    small_head = dict(bbox_head={**RETINA_HEAD, 'in_channels': 4, 'feat_channels': 4})
    models = {
        'plain': dict(num_modules=None),
        'K=1': dict(num_modules=1),
        'K=2': dict(num_modules=2),
        'K=4': {},
        'K=9': dict(num_modules=9),
        'mean of shared head': dict(auxiliary=dict(shared_head_grad='mean')),
        'last of shared head': dict(auxiliary=dict(shared_head_grad='last')),
        'private head': dict(auxiliary=private),
        'head of a config': dict(auxiliary=dict(head=own_head)),
        'shared neck': dict(auxiliary=dict(neck='shared')),
        'shared neck, private head, mean': dict(auxiliary=dict(neck='shared', shared_head_grad='mean', **private)),
        'list of necks': dict(auxiliary=dict(neck=[FPN])),
        'lean': dict(auxiliary=slim),
        'lean, slim neck and head': dict(auxiliary=dict(slim, neck=small_neck, head=small_head)),
        'lean, shared auxiliaries': dict(stage, auxiliary=dict(slim, **private)),
        'shared auxiliaries': dict(stage, auxiliary=dict(cut_stage=False)),
        'shared auxiliaries, private head': dict(stage, auxiliary=dict(cut_stage=False, **private)),
        'shared pyramids': dict(stage, auxiliary=pyramid),
        'no bank': dict(bank=False),
        'partition by memory': dict(partition='memory', probe_size=(64, 64)),
        'named cuts': dict(partition=['layer1.0', 'layer2.1', 'layer3.0']),
        'random start': dict(auxiliary=dict(init='random')),
        'two units a stage': dict(auxiliary=dict(units_per_stage=2)),
        'no units of the cut stage': dict(auxiliary=dict(cut_stage=False)),
        'pyramid': dict(auxiliary=pyramid),
        'pyramid, banked': dict(auxiliary=dict(pyramid, banked_levels=True)),
        'pyramid, shared head and neck': dict(auxiliary=dict(pyramid, head='shared', neck='shared')),
        'frozen stage': dict(backbone=dict(frozen_stages=1)),
        'running norms': dict(backbone=dict(norm_eval=False)),
        'resnet50': dict(backbone=dict(depth=50), auxiliary=dict(neck={**FPN, 'in_channels': [16, 32, 64, 128]})),
    }
    for name, options in models.items():
        model = detector(**options)
        if name == 'resnet50':
            model['neck'] = {**FPN, 'in_channels': [16, 32, 64, 128]}
        yield f'retinanet, {name}', Case(model)
    for name in ('fcos', 'faster_rcnn', 'detr', 'deformable_detr', 'yolov1'):
        for head in ('shared', 'private'):
            yield f'{name}, {head} head', Case(detector(name, 3, dict(head=head)))


def _classifiers() -> Iterator[tuple[str, Case]]:
    for rule in ('man', 'man, shared head', 'slim', 'dgl', 'predsim', 'infopro', 'infopro, contrast', 'auglocal'):
        yield f'cifar, {rule}', Case(classifier(rule))
    yield 'cifar, man, no units', Case(classifier(auxiliary=dict(units_per_stage=0)))
    for rule in ('man', 'dgl'):
        shared = classifier(rule, 10, backbone=dict(depth=20), share='stage')
        yield f'cifar, {rule}, shared auxiliaries', Case(shared)
    for net in ('resnet', 'mobilenet', 'convnext', 'swin', 'vit'):
        yield f'{net}, man', Case(classifier('man, shared head', net=net), size=classifier_size(net))


def _editors() -> Iterator[tuple[str, Case]]:
    light = dict(units_per_stage=0, tail=LIGHT_TAIL)
    for net in ('edsr', 'swinir'):
        yield f'{net}, private tail', Case(editor(net))
        yield f'{net}, shared tail', Case(editor(net, auxiliary=dict(tail='shared')))
        yield f'{net}, tail in parts', Case(editor(net, tail_chunks=2))
    yield 'edsr, mean of shared tail', Case(editor(auxiliary=dict(tail='shared', shared_head_grad='mean')))
    yield 'edsr, light tail in parts', Case(editor(auxiliary=light, tail_chunks=2))
    yield 'edsr, shared auxiliaries', Case(editor(num_modules=5, share='stage'))


def _training() -> Iterator[tuple[str, Case]]:
    private = detector(auxiliary=dict(head='private'))
    clip, by_module = dict(max_norm=0.05), dict(max_norm=0.05, per_module=True)
    adamw = dict(optimizer=dict(type='AdamW', lr=1e-3))
    scaled = dict(type='man_mm.LocalAmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=2.0**10))
    unscaled = dict(scaled, loss_scale=dict(enabled=False))
    wrappers = {
        'eager': dict(eager_step=True),
        'eager, clip by module': dict(eager_step=True, clip_grad=by_module),
        'clip': dict(clip_grad=clip),
        'clip by module': dict(clip_grad=by_module),
        'clip by module, AdamW': dict(adamw, clip_grad=by_module),
        'accumulation': dict(accumulative_counts=2),
        'accumulation, clip': dict(accumulative_counts=2, clip_grad=clip),
    }
    for name, wrapper in wrappers.items():
        yield f'training, {name}', Case(detector(), wrapper)
    yield 'training, eager, private head', Case(private, dict(eager_step=True))
    low = {
        'amp': (detector(), scaled),
        'amp, clip by module': (private, dict(scaled, clip_grad=by_module)),
        'amp, accumulation': (detector(), dict(scaled, accumulative_counts=2)),
        'amp, eager': (private, dict(unscaled, eager_step=True)),
        'amp, lean': (detector(auxiliary=dict(type='man_mm.SlimSLM', channels=8)), scaled),
        'amp, cifar, infopro': (classifier('infopro'), scaled),
        'amp, edsr': (editor(), scaled),
    }
    for name, (model, wrapper) in low.items():
        yield f'training, {name}', Case(model, wrapper, has_onednn=False)
    heads = 'backbone.auxiliaries.*.heads.bbox_head'
    functions = ['neck', 'bbox_head.forward_single', f'{heads}.forward_single', f'{heads}.loss']
    checkpoint = dict(type='man_mm.ActivationCheckpointHook', functions=functions)
    ema = dict(type='EMAHook', momentum=0.1)
    yield 'training, with_cp', Case(detector(backbone=dict(with_cp=True, norm_eval=False)))
    yield 'training, activation checkpoints', Case(private, hooks=[checkpoint])
    yield 'training, moving average', Case(private, hooks=[ema])
    yield 'training, moving average, activation checkpoints', Case(private, hooks=[checkpoint, ema])
    for then in ('copy', 'resume', 'load'):
        yield f'training, {then}', Case(detector(backbone=dict(norm_eval=False)), then=then)
        yield (
            f'training, {then}, shared auxiliaries',
            Case(
                detector(num_modules=9, share='stage', auxiliary=dict(cut_stage=False, head='private')),
                adamw,
                then=then,
            ),
        )


def _distributed() -> Iterator[tuple[str, Case]]:
    at_end = dict(
        type='MMDistributedDataParallel', find_unused_parameters=True, broadcast_buffers=False, device_ids=None
    )
    by_module = dict(type='man_mm.LocalDistributedDataParallel', device_ids=None)
    private = detector(auxiliary=dict(head='private'))
    shared = detector(num_modules=9, share='stage', auxiliary=dict(cut_stage=False))
    clip = dict(clip_grad=dict(max_norm=0.05, per_module=True))
    amp = dict(type='man_mm.LocalAmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=2.0**10))
    both: dict[str, tuple[Cfg, Cfg]] = {
        'shared head': (detector(), {}),
        'private head': (private, {}),
        'mean of shared head': (detector(auxiliary=dict(shared_head_grad='mean')), {}),
        'shared auxiliaries': (shared, {}),
        'K=1': (detector(num_modules=1), {}),
        'clip by module': (detector(), clip),
        'accumulation': (detector(), dict(accumulative_counts=2)),
        'cifar, infopro': (classifier('infopro'), {}),
    }
    for name, (model, wrapper) in both.items():
        yield f'ddp, {name}', Case(model, wrapper, ddp=at_end)
        yield f'ddp by module, {name}', Case(model, wrapper, ddp=by_module)
    eager = dict(eager_step=True)
    yield 'ddp by module, eager, shared head', Case(detector(), eager, ddp=by_module)
    yield 'ddp by module, eager, private head', Case(private, eager, ddp=by_module)
    yield 'ddp by module, eager, shared auxiliaries', Case(shared, eager, ddp=by_module)
    yield 'ddp by module, eager, clip by module', Case(private, {**eager, **clip}, ddp=by_module)
    yield 'ddp by module, amp', Case(detector(), amp, ddp=by_module, has_onednn=False)


def _pipelines() -> Iterator[tuple[str, Case]]:
    private = dict(head='private')
    model = detector(auxiliary=private, backbone=dict(norm_eval=False))
    shared = detector(num_modules=9, share='stage', auxiliary=dict(cut_stage=False, **private))
    adamw = dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=0.05, per_module=True))
    cases: dict[str, tuple[Cfg, Cfg, Cfg, list[Cfg]]] = {
        'balanced': (model, {}, {}, []),
        'split by hand': (model, {}, dict(split=[1, 3]), []),
        'accumulation, one batch ahead': (model, dict(accumulative_counts=2), dict(split=[3, 1], in_flight=1), []),
        'AdamW, clip by module, no bank': (detector(auxiliary=private, bank=False), adamw, {}, []),
        'eager': (model, dict(eager_step=True), {}, []),
        'shared auxiliaries': (shared, {}, {}, []),
        'moving average': (model, {}, {}, [dict(type='EMAHook', momentum=0.1)]),
        'activation checkpoints': (
            model,
            {},
            {},
            [dict(type='man_mm.ActivationCheckpointHook', functions=['neck', 'bbox_head.forward_single'])],
        ),
        **{f'cifar, {rule}': (classifier(rule), {}, {}, []) for rule in ('man', 'predsim', 'infopro', 'auglocal')},
    }
    for name, (cfg, wrapper, told, hooks) in cases.items():
        hooks = [*hooks, dict(type='man_mm.PipelineHook')]
        yield f'pipeline, {name}', Case(cfg, wrapper, hooks, ddp=dict(type='man_mm.LocalPipeline', **told))


def cases() -> dict[str, Case]:
    """All, by name."""
    makers = (_detectors, _classifiers, _editors, _training, _distributed, _pipelines)
    return {name: case for make in makers for name, case in make()}


@HOOKS.register_module()
class Recorder(Hook):
    """Keeps the gradients of every call of the optimizer, and the main loss's log variables."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        host = runner.model.module if is_model_wrapper(runner.model) else runner.model
        calls = count()

        def record(*_: Any) -> None:
            call = next(calls)
            for name, p in host.named_parameters():
                if p.grad is not None:
                    self.found[f'gradient/{call}/{name}'] = p.grad.clone()

        runner.optim_wrapper.optimizer.register_step_pre_hook(record)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.found.update(tensors(f'loss/{batch_idx}', outputs))


def tensors(prefix: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors and numbers in nested containers, by path."""
    if isinstance(value, Tensor):
        yield prefix, value.detach().clone()
    elif isinstance(value, (bool, int, float)):
        yield prefix, torch.tensor(value, dtype=torch.float64)
    elif isinstance(value, BaseDataElement):
        yield from tensors(prefix, dict(value.items()))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors(f'{prefix}/{key}', item)
    elif isinstance(value, (list, tuple)) and value and all(isinstance(item, (int, float)) for item in value):
        yield prefix, torch.tensor(value, dtype=torch.float64)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from tensors(f'{prefix}/{i}', item)


def _runner(case: Case, folder: Path, model: Any = None, steps: int = STEPS, **options: Any) -> Runner:
    """The Runner of a case, as from a config file; `model` stands for one that is built already."""
    steps *= case.wrapper.get('accumulative_counts', 1)
    sampler = dict(type='man_mm.WholeSampler' if case.is_pipeline else 'DefaultSampler', shuffle=False)
    data = dict(type='TinyImages', kind=case.kind, size=case.size)
    sgd = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    cfg = dict(
        default_scope=SCOPES[case.kind],
        model=case.model,
        train_dataloader=dict(batch_size=4 if case.kind == 'classifier' else 2, sampler=sampler, dataset=data),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper={'type': 'man_mm.LocalOptimWrapper', 'optimizer': sgd, **case.wrapper},
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)],
        custom_hooks=[dict(type='man_mm.FeatureBankHook'), *case.hooks, dict(type='Recorder')],
        default_hooks=dict(
            timer=None,
            logger=dict(type='LoggerHook', interval=1) if case.is_pipeline else None,
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=steps) if case.saves else None,
        ),
        randomness=dict(seed=0),
        work_dir=str(folder),
        log_level='CRITICAL',
        experiment_name=f'case-{next(_NUMBER)}',
        **options,
    )
    if _is_plain(case.model):
        cfg['optim_wrapper']['type'] = 'OptimWrapper'
        cfg['custom_hooks'] = [dict(type='Recorder')]
    if case.ddp is not None:
        cfg.update(launcher='pytorch', model_wrapper_cfg=case.ddp)
    config = Config(copy.deepcopy(cfg), format_python_code=False)
    if model is not None:
        config._cfg_dict['model'] = model
    return Runner.from_cfg(config)


def _is_plain(model: Cfg) -> bool:
    return model.get('backbone', model.get('generator'))['type'] != 'man_mm.LocalBackbone'


def _trained(runner: Runner, case: Case, folder: Path) -> dict[str, Tensor]:
    """Everything that a run leaves: what was recorded, the log, the checkpoint, outputs in evaluation."""
    runner.train()
    found = next(hook for hook in runner.hooks if isinstance(hook, Recorder)).found
    for key, buffer in runner.message_hub.log_scalars.items():
        if not key.startswith('train/idle_') and not key.endswith('time'):
            found[f'log/{key}'] = torch.from_numpy(buffer.data[0].astype('float64'))
    if case.saves and runner.rank == 0:
        checkpoint = torch.load(folder / f'iter_{runner.iter}.pth', weights_only=False)
        parts = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
        found.update(tensors('checkpoint', {part: checkpoint[part] for part in parts if part in checkpoint}))
    host = runner.model.module if is_model_wrapper(runner.model) else runner.model
    found.update(tensors('weights', host.state_dict()))
    found.update(tensors('optimizer', runner.optim_wrapper.state_dict()))
    found.update(_outputs(host, runner))
    return found


def _outputs(host: Any, runner: Runner) -> Iterator[tuple[str, Tensor]]:
    dataset = runner.train_dataloader.dataset
    items = [dataset[i] for i in (20, 21)]
    batch = {key: [item[key] for item in items] for key in items[0]}
    host.eval()
    with torch.no_grad():
        data = host.data_preprocessor(batch, False)
        yield from tensors('outputs', host(**data, mode='tensor'))


def run(case: Case, folder: Path) -> dict[str, Tensor]:
    """Train, and what comes `then`."""
    context = nullcontext() if case.has_onednn else torch.backends.mkldnn.flags(enabled=False)
    with context:
        runner = _runner(case, folder / 'first')
        found = _trained(runner, case, folder / 'first')
        second = dict(
            copy=lambda path: _runner(case, path, model=copy.deepcopy(runner.model)),
            resume=lambda path: _runner(case, path, steps=STEPS + 2, resume=True, load_from=saved),
            load=lambda path: _runner(case, path, load_from=saved),
        )
        if case.then is not None:
            saved = str(folder / 'first' / f'iter_{STEPS}.pth')
            again = _trained(second[case.then](folder / 'second'), case, folder / 'second')
            found.update({f'then/{key}': value for key, value in again.items()})
    return found


def _attempt(case: Case) -> dict[str, Any]:
    """The results, or the error."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return dict(run(case, Path(folder)))
    except Exception:
        return {ERROR: traceback.format_exc()}


def _write(result: dict[str, Any], folder: Path, name: str) -> None:
    """In one step: a file that is there is whole."""
    part = folder / f'{name}.part'
    torch.save(result, part)
    part.replace(folder / f'{name}.pth')


def run_single(chosen: Mapping[str, Case], folder: Path) -> None:
    """Cases of one process."""
    for name, case in chosen.items():
        _write(_attempt(case), folder, name)


def run_process(chosen: Mapping[str, Case], folder: Path, rank: int, store: str) -> None:
    """Cases of two processes, in one of them."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    for name, case in chosen.items():
        results: list[Any] | None = [None] * WORLD if rank == 0 else None
        dist.gather_object(_attempt(case), results)
        if results is not None:
            named = {f'process {i}/{key}': value for i, found in enumerate(results) for key, value in found.items()}
            errors = [found[ERROR] for found in results if ERROR in found]
            _write({ERROR: errors[0]} if errors else named, folder, name)
    dist.destroy_process_group()


def start_processes(folder: Path, names: Sequence[str]) -> None:
    """Run this file once a rank, on the same cases."""
    with tempfile.TemporaryDirectory() as store:
        only = '|'.join(map(re.escape, names))
        command = [sys.executable, __file__, str(folder), '--only', f'^({only})$', '--store', f'{store}/store']
        started = [subprocess.Popen([*command, '--rank', str(rank)]) for rank in range(WORLD)]
        for process in started:
            process.wait(timeout=1200)


def _prepare() -> None:
    """MMEngine's mixed precision asserts an accelerator; its start asks compilers for their versions."""
    torch.set_num_threads(1)
    amp_optimizer_wrapper.is_cuda_available = lambda: True
    amp_optimizer_wrapper.GradScaler = functools.partial(torch.amp.GradScaler, 'cpu')
    sys.modules['mmengine.runner.runner'].collect_env = dict


def main() -> None:
    """Run the cases whose name matches."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--only', type=re.compile, default='')
    parser.add_argument('--rank', type=int)
    parser.add_argument('--store')
    args = parser.parse_args()
    _prepare()
    chosen = {name: case for name, case in cases().items() if re.search(args.only, name)}
    distributed = {name: case for name, case in chosen.items() if case.ddp is not None}
    if args.rank is not None:
        run_process(distributed, args.folder, args.rank, args.store)
        return
    (args.folder / 'cases.txt').write_text('\n'.join(chosen))
    print(f'{len(chosen)} cases on {Path(man_mm.__file__).parent}', flush=True)
    run_single({name: case for name, case in chosen.items() if case.ddp is None}, args.folder)
    if distributed:
        start_processes(args.folder, list(distributed))


if __name__ == '__main__':
    main()
