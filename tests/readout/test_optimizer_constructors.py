"""Upstream's layer-wise learning rates: the plain model's for every parameter of it, those of heads for auxiliaries."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from ..helpers.backbones import MAPS
from ..helpers.classification import batch as images
from ..helpers.classification import classifier
from ..helpers.detection import FPN, batch, build, retinanet
from ..helpers.training import Trainer

VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
DETECTION = 'LearningRateDecayOptimizerConstructor'
CLASSIFICATION = 'mmpretrain.LearningRateDecayOptimWrapperConstructor'
RULES = {
    'layers of ConvNeXt': (DETECTION, dict(decay_rate=0.5, decay_type='layer_wise', num_layers=6)),
    'stages of ConvNeXt': (DETECTION, dict(decay_rate=0.5, decay_type='stage_wise', num_layers=6)),
    'layers of ViT': (CLASSIFICATION, dict(layer_decay_rate=0.5, flat_decay_mult=0.0)),
}


def model_of(rule, num_modules):
    if rule == 'layers of ViT':
        head = dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16)
        cfg = classifier('man' if num_modules else None, num_modules or 1, model=dict(neck=None, head=head))
        if num_modules:
            cfg['backbone']['auxiliary']['bank_vectors'] = False
            cfg['backbone'].update(backbone=VIT, probe_size=(32, 32))
        else:
            cfg['backbone'] = VIT
        return build(cfg, scope='mmpretrain')
    cfg = retinanet(num_modules)
    (cfg if num_modules is None else cfg['backbone'])['backbone'] = MAPS
    return build({**cfg, 'neck': FPN})


def built(rule, model, num_modules):
    constructor, settings = RULES[rule]
    kind = 'OptimWrapper' if num_modules in (None, 1) else 'man_mm.LocalOptimWrapper'
    cfg = dict(
        type=kind,
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
        constructor=constructor,
        paramwise_cfg=settings,
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        return build_optim_wrapper(model, cfg)


def rates(rule, num_modules):
    """Learning rate and weight decay of every parameter, by the plain model's name of it."""
    model = model_of(rule, num_modules)
    names = {id(p): name.replace('backbone.backbone.', 'backbone.') for name, p in model.named_parameters()}
    groups = built(rule, model, num_modules).optimizer.param_groups
    found = [(names[id(p)], (group['lr'], group['weight_decay'])) for group in groups for p in group['params']]
    assert len(found) == len(names) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize('num_modules', [1, 3])
@pytest.mark.parametrize('rule', RULES)
def test_layer_wise_rates_are_the_plain_models(rule, num_modules):
    plain, ours = rates(rule, None), rates(rule, num_modules)
    assert {name: rate for name, rate in ours.items() if '.auxiliaries.' not in name} == plain
    assert len({lr for lr, _ in plain.values()}) > 3
    heads = {lr for name, (lr, _) in plain.items() if not name.startswith('backbone.')}
    assert {lr for name, (lr, _) in ours.items() if '.auxiliaries.' in name} <= heads
    assert (num_modules == 1) == all('.auxiliaries.' not in name for name in ours)


@pytest.mark.parametrize('rule', RULES)
def test_such_a_model_trains_and_is_itself_again(rule):
    model = model_of(rule, 3)
    parts = [type(child) for child in model.children()]
    wrapper = built(rule, model, 3)
    run = Trainer(model)
    run.optim_wrapper = wrapper
    run.hook.before_train(run)
    wrapper.optimizer.register_step_pre_hook(run._record)
    run.step(batch() if 'ConvNeXt' in rule else images(size=32))
    assert run.gradients and [type(child) for child in model.children()] == parts
