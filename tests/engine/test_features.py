"""MMEngine's features with local learning on: whole runs through a Runner."""

import copy
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ..helpers import classification
from ..helpers.detection import batch, build, images, retinanet
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import Trainer, assert_equal

MOMENTUM = 0.25
FROZEN = 'backbone.backbone.layer1'
AUXILIARIES = 'backbone.auxiliaries'


class Recorder(Hook):
    """Weights after every iteration, and those that each evaluation sees."""

    priority = 'LOWEST'

    def __init__(self):
        self.trained, self.evaluated = [], []

    def after_train_iter(self, runner, *args, **kwargs):
        self.trained.append(copy.deepcopy(dict(runner.model.named_parameters())))

    def before_val_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 0:
            self.evaluated.append(copy.deepcopy(dict(runner.model.named_parameters())))


def config(root, folder, epochs, **options):
    """A run with an average of weights, early stopping, rare evaluation, TensorBoard, accumulation and much more."""
    cfg = run_config(
        root,
        folder,
        retinanet(4, dict(frozen_stages=1)),
        epochs=epochs,
        hooks=[
            dict(type='EMAHook', momentum=MOMENTUM),
            dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', rule='greater', min_delta=2.0, patience=1),
        ],
        wrapper=dict(
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0, per_module=True),
            paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={AUXILIARIES: dict(lr_mult=0.5)}),
        ),
        auto_scale_lr=dict(enable=True, base_batch_size=8),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')]),
        val_cfg=dict(),
        val_evaluator=dict(type='CocoMetric', ann_file=root + 'train.json'),
        **options,
    )
    cfg['train_cfg']['val_interval'] = 2
    cfg['optim_wrapper']['optimizer'].update(weight_decay=1e-4)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]
    cfg['val_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
    cfg['val_dataloader'].update(batch_size=6, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg['val_dataloader']['dataset'].update(test_mode=True, pipeline=pipeline)
    return cfg


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    """The run, its folder, and what was recorded."""
    folder = tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    run = runner(config(root, folder, epochs=6))
    recorder = Recorder()
    run.register_hook(recorder)
    run.train()
    return run, folder, recorder


def averages(weights, name):
    """What the average of a parameter is after every iteration."""
    average = weights[0][name]
    result = [average]
    for later in weights[1:]:
        average = (1 - MOMENTUM) * average + MOMENTUM * later[name]
        result.append(average)
    return result


def names_of(run):
    """Trained parameters of the backbone, of an auxiliary and of the head."""
    return (
        'backbone.backbone.layer3.0.conv1.weight',
        f'{AUXILIARIES}.1.neck.lateral_convs.0.conv.weight',
        'bbox_head.retina_cls.weight',
    )


def test_evaluation_sees_the_average_of_all_weights_auxiliaries_too_and_training_goes_on_with_its_own(trained):
    run, _, recorder = trained
    assert len(recorder.evaluated) == 2
    for name in names_of(run):
        expected = averages(recorder.trained, name)
        for weights, iteration in zip(recorder.evaluated, (6, 12), strict=True):
            torch.testing.assert_close(weights[name], expected[iteration - 1])
            assert not torch.equal(weights[name], recorder.trained[iteration - 1][name])
        torch.testing.assert_close(dict(run.model.named_parameters())[name], recorder.trained[-1][name])


def test_a_checkpoint_holds_the_average_as_its_weights_and_the_trained_ones_beside(trained):
    run, folder, recorder = trained
    checkpoint = torch.load(folder / 'epoch_4.pth')
    assert {f'module.{key}' for key in checkpoint['state_dict']} == checkpoint['ema_state_dict'].keys() - {'steps'}
    for name in names_of(run):
        key = name.replace('backbone.backbone', 'backbone')
        torch.testing.assert_close(checkpoint['state_dict'][key], averages(recorder.trained, name)[-1])
        assert torch.equal(checkpoint['ema_state_dict'][f'module.{key}'], recorder.trained[-1][name])


def test_a_resumed_run_goes_on_with_both(root, trained, tmp_path):
    _, folder, _ = trained
    runner(config(root, tmp_path, epochs=4, resume=True, load_from=str(folder / 'epoch_2.pth'))).train()
    ours, theirs = (torch.load(path / 'epoch_4.pth') for path in (tmp_path, folder))
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(ours[key], theirs[key])


def test_training_stops_early_at_an_evaluation_and_evaluates_only_at_the_interval(trained):
    run, folder, _ = trained
    assert run.epoch == 4 < run.max_epochs and not (folder / 'epoch_5.pth').exists()


def test_tensorboard_gets_every_local_loss_and_norm(trained):
    _, folder, _ = trained
    (path,) = folder.rglob('events*')
    events = EventAccumulator(str(path)).Reload()
    modules = {f'local_{m:02d}/{term}' for m in range(3) for term in ('cls', 'bbox', 'total', 'grad_norm')}
    assert modules | {'local_03/grad_norm', 'grad_norm', 'bank_mib', 'loss'} <= set(events.Tags()['scalars'])
    totals = [event.value for event in events.Scalars('local_02/total')]
    assert len(totals) == 12 and all(map(math.isfinite, totals)) and len(set(totals)) > 6
    assert [event.step for event in events.Scalars('coco/bbox_mAP')] == [2, 4]


def test_weights_change_with_every_second_batch_and_frozen_ones_never(trained):
    _, _, recorder = trained
    for name, first in recorder.trained[0].items():
        if name.startswith(FROZEN):
            assert all(torch.equal(weights[name], first) for weights in recorder.trained), name
    for earlier, later, iteration in zip(recorder.trained, recorder.trained[1:], range(2, 13), strict=False):
        for name in names_of(None):
            assert torch.equal(earlier[name], later[name]) == (iteration % 2 == 1)


def test_the_scaled_rate_and_the_multipliers_reach_their_parameters(trained):
    run, _, _ = trained
    groups = {group['params'][0]: group for group in run.optim_wrapper.optimizer.param_groups}
    parameters = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    assert set(groups) == set(parameters.values())
    norms = {p for layer in run.model.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()}
    for name, p in parameters.items():
        auxiliary = name.startswith(AUXILIARIES)
        assert groups[p]['initial_lr'] == pytest.approx(0.01 * 2 / 8 * (0.5 if auxiliary else 1.0))
        assert groups[p]['weight_decay'] == (0.0 if p in norms and not auxiliary else 1e-4)


def layer_rates(rule):
    """Learning rates by name of a vision transformer whose layers have one each, by MMPretrain's constructor."""
    net = dict(type='VisionTransformer', arch='deit-tiny', img_size=32, patch_size=16)
    net['arch'] = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=16)
    if rule:
        net = dict(
            type='man_mm.LocalBackbone', backbone=net, num_modules=3, auxiliary=dict(type='man_mm.SLM', head='private')
        )
    head = dict(type='LinearClsHead', num_classes=10, in_channels=16)
    model = classification.make(dict(type='ImageClassifier', backbone=net, head=head))
    cfg = dict(
        type='man_mm.LocalOptimWrapper' if rule else 'OptimWrapper',
        constructor='LearningRateDecayOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=1.0, weight_decay=0.05),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    return {group['param_name']: group['lr'] for group in groups}


def test_layer_wise_rates_see_through_the_wrapper_and_auxiliaries_learn_as_heads_do():
    plain, ours = layer_rates(False), layer_rates(True)
    own = {name: lr for name, lr in ours.items() if name.startswith('auxiliaries.')}  # beside the backbone, to them
    rest = {name.replace('backbone.backbone.', 'backbone.'): lr for name, lr in ours.items() if name not in own}
    assert rest == plain and len(set(plain.values())) > 4
    assert own and set(own.values()) == {plain['head.fc.weight']}


def test_synchronised_norms_convert_everywhere_and_change_nothing_in_one_process():
    private = dict(head='private')
    model, plain = (build(retinanet(4, dict(norm_eval=False), private)) for _ in range(2))
    keys = list(model.state_dict())
    converted = convert_sync_batchnorm(model, 'torch')
    norms = [layer for layer in converted.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(layer, nn.SyncBatchNorm) for layer in norms)
    assert list(converted.state_dict()) == keys
    runs = [Trainer(net) for net in (plain, converted)]
    for run in runs:
        run.step()
    assert_equal(runs[1].gradients, runs[0].gradients)
    assert_equal(dict(converted.state_dict()), dict(plain.state_dict()))  # running statistics too
    back = revert_sync_batchnorm(converted).eval()
    with torch.no_grad():
        for ours, theirs in zip(back(images(), mode='tensor'), plain.eval()(images(), mode='tensor'), strict=True):
            assert_equal(dict(enumerate(ours)), dict(enumerate(theirs)))


def test_compiled_blocks_train_to_the_gradients_of_eager_ones_and_stay_out_of_checkpoints(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, 'recompile_limit', 64)
    runs = [Trainer(build(retinanet(4))) for _ in range(2)]
    keys = list(runs[1].model.state_dict())
    for name, layer in runs[1].model.named_modules():
        if type(layer).__name__ == 'BasicBlock' and '.layer3.' in f'{name}.':
            layer.compile(backend='eager')
    for run in runs:
        run.step(batch())
    assert torch._dynamo.utils.counters['frames']['ok'] > 0
    assert_equal(runs[1].gradients, runs[0].gradients)
    assert list(runs[1].model.state_dict()) == keys
    copied = Trainer(copy.deepcopy(runs[1].model))
    for run in (runs[0], copied):
        run.step(batch(first=2))
    assert_equal(copied.gradients, runs[0].gradients)
