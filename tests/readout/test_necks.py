"""Maps that no neck reads are not kept, and nothing else changes by it."""

import copy

import pytest
import torch

from man_mm.readout.necks import passed_over

from ..helpers.detection import FPN, RETINA_HEAD, build, retinanet
from ..helpers.training import Trainer, assert_equal, trainer

pytestmark = pytest.mark.usefixtures('device')

ALL = dict(FPN, start_level=0, add_extra_convs=False)
HEAD = {**RETINA_HEAD, 'anchor_generator': {**RETINA_HEAD['anchor_generator'], 'strides': [4, 8, 16, 32]}}
WHOLE = dict(neck=ALL, bbox_head=HEAD)
RULES = {
    'slm': {},
    'slim': dict(type='man_mm.SlimSLM', channels=8),
    'dgl with the bank': dict(type='man_mm.DGLPyramid', channels=8, banked_levels=True),
}


def run_of(rule, **options):
    return trainer(4, auxiliary=dict(RULES[rule], head='private'), **options)


@pytest.mark.parametrize('rule', RULES)
def test_what_no_neck_reads_is_banked_as_nothing_and_training_is_the_same(rule):
    ours, kept = run_of(rule), run_of(rule)
    assert ours.model.backbone.unread == {'layer1'}
    kept.model.backbone.unread = frozenset()
    assert_equal(dict(ours.model.state_dict()), dict(kept.model.state_dict()))
    losses = [run.step() for run in (ours, kept)]
    assert_equal(ours.gradients, kept.gradients)
    assert_equal(*losses)
    layer1 = 2 * 8 * 16 * 16 * 4  # two images of 64 px
    assert kept.hook.bank_bytes - ours.hook.bank_bytes == layer1


def test_a_neck_that_reads_all_levels_leaves_nothing_out():
    model = {**retinanet(4, auxiliary=dict(neck=ALL)), **WHOLE}
    assert Trainer(build(model)).model.backbone.unread == frozenset()


@pytest.mark.parametrize('own', ['the model', 'the auxiliaries'])
def test_one_neck_that_reads_a_level_is_enough(own):
    if own == 'the model':
        model = {**retinanet(4, auxiliary=dict(neck=FPN, head=dict(bbox_head=RETINA_HEAD))), **WHOLE}
    else:
        model = retinanet(4, auxiliary=dict(neck=ALL, head=dict(bbox_head=HEAD)))
    assert Trainer(build(model)).model.backbone.unread == frozenset()


def test_an_extractor_of_the_models_own_may_read_anything(monkeypatch):
    run = trainer(4)
    assert run.model.backbone.unread == {'layer1'}
    monkeypatch.setattr(type(run.model), 'extract_feat', lambda self, x: self.neck(self.backbone(x)))
    run.hook.bind(run.model, run.optim_wrapper)
    assert run.model.backbone.unread == frozenset()


def test_a_trial_changes_nothing_and_a_neck_that_cannot_be_tried_reads_all():
    model = build(retinanet(4, dict(norm_eval=False)))
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert passed_over(model.neck, model.backbone) == {'layer1'}
    assert_equal(dict(model.state_dict()), before)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert passed_over(torch.nn.Conv2d(3, 3, 1), model.backbone) == frozenset()
