"""Private heads follow what hooks change in the model's own heads; what losses count stays each head's own."""

import copy
import logging

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from ..helpers import classification
from ..helpers.detection import FPN, RETINA_HEAD, batch, build, retinanet
from ..helpers.training import Trainer


def heads_of(run, name='bbox_head'):
    return [auxiliary.heads[name] for auxiliary in run.model.backbone.auxiliaries]


def test_a_mode_another_loss_and_its_weight_reach_private_heads():
    run = Trainer(build(retinanet(4, auxiliary=dict(head='private'))))
    head = run.model.bbox_head
    run.step()
    head.use_l1 = True  # as YOLOXModeSwitchHook
    head.loss_cls.loss_weight = 0.0
    head.loss_bbox = nn.Identity()
    head.loss_bbox.forward = lambda pred, *_, **__: pred.sum() * 0
    logs = run.step()
    assert logs['loss_cls'] == logs['loss_bbox'] == 0
    assert all(loss == 0 for loss in run.optim_wrapper.local_losses.values())
    for own in heads_of(run):
        assert own.use_l1 and own.loss_bbox is not head.loss_bbox


@pytest.mark.parametrize('moment', ['before training', 'between steps'])
def test_margins_that_a_hook_sets_reach_private_heads(moment):
    cfg = classification.classifier('dgl', model=dict())
    cfg['head'] = dict(type='ArcFaceClsHead', num_classes=10, in_channels=16)
    model = classification.make(cfg)
    margins = [0.1 * i for i in range(10)]
    if moment == 'before training':
        model.head.set_margins(margins)
    run = Trainer(model)
    run.step(classification.batch(4))
    if moment == 'between steps':
        model.head.set_margins(margins)
        run.step(classification.batch(4))
    for own in heads_of(run, 'head'):
        assert torch.equal(own.margins, model.head.margins) and own.margins is not model.head.margins
        assert torch.equal(own.threshold, model.head.threshold)


def test_what_losses_change_stays_each_heads_own():
    run = Trainer(build(retinanet(4, auxiliary=dict(head='private'))))
    head, own = run.model.bbox_head, heads_of(run)[0]
    for number, part in enumerate((head, own)):
        part.seen = number
        part.register_forward_pre_hook(lambda module, _: setattr(module, 'seen', module.seen + 10))
    run.hook._heads.note()
    for _ in range(2):
        run.step()
    assert (head.seen, own.seen) == (20, 21)


def test_heads_of_other_settings_keep_them_and_follow_what_changes():
    lean = {**RETINA_HEAD, 'loss_cls': dict(type='FocalLoss', use_sigmoid=True, alpha=0.5)}
    run = Trainer(build(retinanet(4, auxiliary=dict(head=dict(bbox_head=lean)))))
    run.model.bbox_head.loss_cls.gamma = 3.0
    run.step()
    assert {(own.loss_cls.alpha, own.loss_cls.gamma) for own in heads_of(run)} == {(0.5, 3.0)}


def inherited(**neck):
    """A model as a child config leaves it that changes the neck after it was copied."""
    cfg = copy.deepcopy(retinanet(4))
    cfg['neck'] = {**FPN, **neck}
    return cfg


def test_a_width_that_no_longer_fits_the_copied_neck_is_named_before_training():
    cfg = inherited(out_channels=16)
    cfg['bbox_head'] = {**cfg['bbox_head'], 'in_channels': 16}
    with pytest.raises(ValueError, match=r'auxiliary\.neck\.out_channels=8, but the heads read 16 .*model\.neck'):
        Trainer(build(cfg))


@pytest.mark.parametrize('norm', [None, dict(type='BN')])
def test_another_norm_than_that_of_the_copied_neck_is_a_warning(norm, caplog):
    logger = MMLogger.get_instance('necks')
    logger.addHandler(caplog.handler)
    Trainer(build(inherited(norm_cfg=norm))).step(batch())
    logger.removeHandler(caplog.handler)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum('auxiliary.neck has norms' in text for text in warnings) == (norm is not None)
