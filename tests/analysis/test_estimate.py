"""An estimate on tensors without values is a measurement, to the byte."""

from functools import cache
from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.cost import step_cost
from man_mm.analysis.estimate import FakeTrainStep, is_mixed
from man_mm.analysis.step import TrainStep
from man_mm.engine import LocalAmpOptimWrapper, LocalOptimWrapper
from man_mm.readout.proposals import given_proposals
from man_mm.versions import is_autocast_on

from ..helpers.classification import RULES, classifier
from ..helpers.classification import batch as labelled
from ..helpers.detection import CLASSES, batch, small_retinanet
from ..helpers.detection import tiny_retinanet as tiny
from ..helpers.detectors import DETECTORS, detector
from ..helpers.restoration import batch as pairs
from ..helpers.restoration import editor
from ..helpers.steps import step_config

PRIVATE = dict(head='private')
PYRAMID = dict(type='man_mm.DGLPyramid', channels=8)
SLIM = dict(type='man_mm.SlimSLM', channels=8)
LEVELS = dict(
    type='man_mm.ActivationCheckpointHook', functions=['bbox_head.forward_single', 'bbox_head.loss_by_feat_single']
)
ADAM = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
PLAIN = dict(type='SGD', lr=0.01)  # a fourth of the operations, where the optimizer is not what is new


def config(num_modules, backbone=None, auxiliary=None, optimizer=PLAIN, hooks=(), net=None, **wrapper):
    """`net` has options of the LocalBackbone, `wrapper` those of the optim wrapper."""
    model = tiny(num_modules, backbone, auxiliary, **(net or {}))
    return step_config(model, optimizer=optimizer, hooks=hooks, **wrapper)


RECOMPUTED = dict(with_cp=True)
SHARED = dict(share='stage', partition=['layer1.0', 'layer1.1'])
CLIP = dict(max_norm=35.0, norm_type=2, per_module=True)
CUT = ('fcos', 'faster_rcnn')
"""Detectors of two modules; those with queries, which auxiliaries run alike, are of one."""
DETECTION = {
    'bp': config(None, optimizer=None),
    'bp, accumulation': config(None, accumulative_counts=3),
    'bp, blocks and heads recomputed, adam': config(None, RECOMPUTED, hooks=[LEVELS], optimizer=ADAM),
    'K = 1, batch norm in training': config(1, dict(norm_eval=False)),
    'man, last, momentum': config(2, None, dict(shared_head_grad='last'), optimizer=None),
    'man without bank, mean, batch norm in training, accumulation': config(
        2, dict(norm_eval=False), dict(shared_head_grad='mean'), net=dict(bank=False), accumulative_counts=2
    ),
    'private heads, cut by memory, blocks and heads recomputed, adam': config(
        2, RECOMPUTED, PRIVATE, net=dict(partition='memory', probe_size=(64, 64)), hooks=[LEVELS], optimizer=ADAM
    ),
    'shared, eager_step, momentum': config(
        3, None, dict(PRIVATE, cut_stage=False), net=SHARED, optimizer=None, eager_step=True
    ),
    'dgl, clipping': config(2, None, PYRAMID, clip_grad=CLIP),
    'man without slm': config(3, None, dict(PYRAMID, banked_levels=True)),
    'slim, frozen stages, eager_step, adam': config(
        3, dict(frozen_stages=0), SLIM, optimizer=ADAM, eager_step=True, clip_grad=CLIP
    ),
    'followers, momentum': config(2, None, dict(PRIVATE, follow='ema'), optimizer=None),
    'frozen units, eager_step': config(2, None, dict(PRIVATE, init='random', trainable=False), eager_step=True),
    **{name: step_config(detector(name, 2 if name in CUT else None), optimizer=PLAIN) for name in DETECTORS},
}
"""Every lever, several in a config: a difference is told by phase and kind."""
OTHERS = {
    **{rule: (classifier(rule, 2, net_depth=8), labelled, 'mmpretrain') for rule in RULES if rule != 'dgl'},
    'classification by bp': (classifier(net_depth=8), labelled, 'mmpretrain'),
    'dgl, shared': (
        classifier('dgl', 3, backbone_share='stage', backbone_partition=['layer1.0', 'layer1.1']),
        labelled,
        'mmpretrain',
    ),
    'edsr': (editor('edsr', 2), pairs, 'mmagic'),
    'swinir': (editor('swinir', 2, backbone=dict(depths=[2], num_heads=[2])), pairs, 'mmagic'),
    'super-resolution by bp': (editor(num_modules=None), pairs, 'mmagic'),
}


LONG = ('bp, accumulation', 'man without slm', 'K = 1, batch norm in training', 'detr', 'contrast')
"""Each of their parts is in another config."""


def short(names):
    return [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in names]


def measured_and_estimated(cfg, data):
    with given_proposals():
        measured = step_cost(TrainStep(cfg), data)
    return measured, step_cost(FakeTrainStep(cfg), data)


def assert_exact(measured, estimated):
    assert estimated.peak_bytes == measured.peak_bytes > 0
    assert estimated.split == measured.split
    for ours, theirs in zip(estimated.phases, measured.phases, strict=True):
        assert (ours.name, ours.peak_bytes, ours.split) == (theirs.name, theirs.peak_bytes, theirs.split)
    assert estimated.flops == measured.flops
    assert estimated.timeline[-1] == measured.timeline[-1]


@pytest.mark.parametrize('name', short(DETECTION))
def test_an_estimate_of_a_detector_is_exact(name):
    assert_exact(*measured_and_estimated(DETECTION[name], batch(1)))


@pytest.mark.parametrize('name', short(OTHERS))
def test_an_estimate_of_other_tasks_is_exact(name):
    model, data, scope = OTHERS[name]
    assert_exact(*measured_and_estimated(step_config(model, scope, PLAIN), data()))


def test_images_of_several_sizes_are_estimated_as_they_are_padded():
    small, large = batch(1, size=64), batch(1, size=96)
    assert_exact(*measured_and_estimated(DETECTION['bp'], {key: small[key] + large[key] for key in small}))


def test_weights_and_images_have_no_memory():
    step = FakeTrainStep(DETECTION['man, last, momentum'])
    seen = []
    step.model.backbone.register_forward_pre_hook(lambda module, args: seen.extend(args))
    step.warm_up(batch())
    step(batch())
    tensors = [*step.model.parameters(), *step.model.buffers(), *seen]
    tensors += [state['momentum_buffer'] for state in step.optimizer.state.values()]
    assert len(seen) == 1 and all(isinstance(tensor, FakeTensor) for tensor in tensors)


def test_a_model_larger_than_any_memory_is_estimated():
    model = tiny(None)
    model['neck'] = {**model['neck'], 'out_channels': 20000}
    model['bbox_head'] = {**model['bbox_head'], 'in_channels': 20000, 'feat_channels': 20000}
    cost = step_cost(FakeTrainStep(step_config(model)), batch(1))
    assert cost.split['weights'] > 50 * 2**30


def test_modules_that_are_built_later_are_real():
    FakeTrainStep(DETECTION['bp'])
    cfg = config(None)
    cfg.model.bbox_head.stacked_convs = 'many'
    with pytest.raises(TypeError):
        FakeTrainStep(cfg)
    assert not isinstance(nn.Linear(2, 2).weight, FakeTensor)


def test_a_config_is_left_as_it_was():
    cfg = mixed(tiny(2), optimizer=PLAIN)
    before = cfg.to_dict()
    step_cost(FakeTrainStep(cfg), batch())
    assert cfg.to_dict() == before


# Two stages


def mask_rcnn(num_modules):
    model = detector('faster_rcnn', num_modules)
    extractor = {**model['roi_head']['bbox_roi_extractor'], 'roi_layer': dict(type='RoIAlign', output_size=6)}
    head = dict(type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8, num_classes=CLASSES)
    roi_head = dict(model['roi_head'], mask_roi_extractor=extractor, mask_head=head)
    train_cfg = dict(model['train_cfg'], rcnn=dict(model['train_cfg']['rcnn'], mask_size=12))
    return dict(model, type='MaskRCNN', roi_head=roi_head, train_cfg=train_cfg)


MASKS = step_config(mask_rcnn(None), optimizer=PLAIN)


@cache
def estimated_masks():
    return step_cost(FakeTrainStep(MASKS), synthetic_batch(MASKS, 2, (64, 96)))


@pytest.mark.parametrize('num_modules', [None, pytest.param(2, marks=pytest.mark.long)])
def test_masks_are_cropped_from_maps_of_the_whole_image_in_an_estimate_too(num_modules):
    cfg = MASKS if num_modules is None else step_config(mask_rcnn(num_modules), optimizer=PLAIN)
    data = synthetic_batch(cfg, 2, (64, 96))
    with given_proposals():
        measured = step_cost(TrainStep(cfg), data)
    estimated = estimated_masks() if num_modules is None else step_cost(FakeTrainStep(cfg), data)
    assert estimated.peak_bytes == pytest.approx(measured.peak_bytes, rel=1e-3)
    assert estimated.flops == measured.flops


def test_what_a_first_stage_proposes_by_itself_takes_no_more_than_estimated():
    own, estimated = step_cost(TrainStep(MASKS), synthetic_batch(MASKS, 2, (64, 96))), estimated_masks()
    assert 0.8 * estimated.peak_bytes < own.peak_bytes <= estimated.peak_bytes


def test_an_image_without_objects_has_proposals_too():
    cfg = step_config(detector('faster_rcnn', None), optimizer=PLAIN)
    assert_exact(*measured_and_estimated(cfg, batch(1, boxes=[])))


def test_a_first_stage_proposes_by_itself_again_afterwards():
    head = import_module('mmdet.models.dense_heads.base_dense_head').BaseDenseHead
    before = head.loss_and_predict
    step = FakeTrainStep(MASKS)
    step.model.neck.forward = broken
    with pytest.raises(ValueError, match='cannot be estimated'):
        step(batch())
    assert head.loss_and_predict is before


def test_a_model_that_decides_by_what_it_predicts_is_refused():
    step = FakeTrainStep(DETECTION['bp'])
    step.model.bbox_head.loss = lambda features, samples: dict(loss=features[0][features[0] > 0].sum())
    with pytest.raises(ValueError, match=r'step of RetinaNet cannot be estimated\. If it decides by what it predicts'):
        step(batch())


def broken(*args):
    raise RuntimeError('channels do not fit\nand more')


def test_an_error_of_the_model_is_told():
    step = FakeTrainStep(DETECTION['bp'])
    step.model.neck.forward = broken
    with pytest.raises(ValueError, match=r'The error was RuntimeError: channels do not fit$'):
        step(batch())


# Mixed precision


def mixed(model, **wrapper):
    cfg = step_config(model, loss_scale='dynamic', **wrapper)
    is_local = cfg.optim_wrapper.type == 'man_mm.LocalOptimWrapper'
    cfg.optim_wrapper.type = 'man_mm.LocalAmpOptimWrapper' if is_local else 'AmpOptimWrapper'
    return cfg


@pytest.mark.parametrize('num_modules', [pytest.param(None, marks=pytest.mark.long), 2])
def test_mixed_precision_is_estimated_without_a_gpu(num_modules):
    model = tiny(num_modules)
    whole = step_cost(FakeTrainStep(step_config(model, optimizer=PLAIN)), batch(size=256))
    half = step_cost(FakeTrainStep(mixed(model, optimizer=PLAIN, use_fp64=False, dtype='float16')), batch(size=256))
    assert [half.split[kind] for kind in ('weights', 'auxiliary')] == [
        whole.split[kind] for kind in ('weights', 'auxiliary')
    ]
    activations = [cost.phases[0].split['activations'] for cost in (half, whole)]
    assert 0.4 * activations[1] < activations[0] < 0.8 * activations[1]


def test_the_forward_alone_is_in_mixed_precision():
    step, seen = FakeTrainStep(mixed(tiny(2))), []
    step.model.neck.register_forward_hook(lambda *_: seen.append(is_autocast_on('cpu')))
    step.optimizer.register_step_pre_hook(lambda *_: seen.append(is_autocast_on('cpu')))
    step(batch())
    assert seen == [True, False]


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('AmpOptimWrapper', True),
        ('mmengine.AmpOptimWrapper', True),
        ('man_mm.LocalAmpOptimWrapper', True),
        (AmpOptimWrapper, True),
        (LocalAmpOptimWrapper, True),
        ('OptimWrapper', False),
        ('man_mm.LocalOptimWrapper', False),
        (OptimWrapper, False),
        (LocalOptimWrapper, False),
    ],
)
def test_mixed_precision_is_known_by_name_and_by_class(kind, expected):
    cfg = step_config(tiny(4))
    cfg.optim_wrapper.type = kind
    assert is_mixed(cfg) == expected
    assert not is_mixed(Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))))


# Where upstream goes another way on CUDA


def on(device, cfg, **options):
    return step_cost(FakeTrainStep(cfg, device), batch(**options))


@pytest.mark.parametrize('hooks', [(), (LEVELS,)], ids=['kept', 'recomputed'])
def test_the_compiled_focal_loss_keeps_less(hooks):
    cfg = config(None, hooks=hooks)
    cfg.model.bbox_head.num_classes = 80
    cpu, cuda = (on(device, cfg, size=128).phases[0].split['activations'] for device in ('cpu', 'cuda:1'))
    assert cuda < 0.95 * cpu


def test_the_compiled_deformable_attention_keeps_less():
    cfg = DETECTION['deformable_detr']
    cpu, cuda = (on(device, cfg).phases[0].split['activations'] for device in ('cpu', 'cuda'))
    assert cuda < 0.9 * cpu


def test_an_update_of_all_weights_at_once_copies_the_gradients_for_weight_decay():
    cfg = step_config(small_retinanet(None))  # its peak is in the update
    cpu, cuda = (on(device, cfg, num=1, size=32) for device in ('cpu', 'cuda'))
    assert cuda.split['activations'] >= cuda.split['gradients'] > cpu.split['activations']
    cfg.optim_wrapper.optimizer.foreach = False
    assert on('cuda', cfg, num=1, size=32).split['activations'] < cuda.split['gradients']


@pytest.mark.parametrize('is_broken', [False, True])
def test_losses_go_the_ways_of_the_cpu_afterwards(is_broken):
    loss = import_module('mmdet.models.losses').FocalLoss
    attention = import_module('mmcv.ops.multi_scale_deform_attn')

    def ways():
        names = ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward', 'ms_deform_attn_forward')
        functions = [getattr(attention.ext_module, name) for name in names]
        own = (loss.forward, attention.MultiScaleDeformableAttention.forward, attention.IS_CUDA_AVAILABLE)
        return [*functions, *own, torch.cuda.is_available]

    before, step = ways(), FakeTrainStep(DETECTION['bp'], 'cuda')
    if is_broken:
        step.model.neck.forward = broken
        with pytest.raises(ValueError, match='cannot be estimated'):
            step(batch())
    else:
        step(batch())
    assert ways() == before


def test_other_libraries_are_estimated_for_cuda_too():
    cfg = step_config(classifier('man', 2, net_depth=8), 'mmpretrain', PLAIN)
    costs = [step_cost(FakeTrainStep(cfg, device), labelled()) for device in ('cpu', 'cuda')]
    assert costs[0].flops == costs[1].flops and costs[1].peak_bytes > 0
