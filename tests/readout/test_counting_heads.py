"""Heads that count what they have seen count the main loss alone, once a step, as they do without local learning."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from ..helpers.detection import CLASSES, batch, build, retinanet
from ..helpers.detectors import detector
from ..helpers.training import Trainer


def ghm(num_modules):
    cfg = retinanet(num_modules)
    cfg['bbox_head'] = {
        **cfg['bbox_head'],
        'loss_cls': dict(type='GHMC', bins=10, momentum=0.75),
        'loss_bbox': dict(type='GHMR', mu=0.02, bins=10, momentum=0.7),
    }
    return cfg


def test_ghm_moves_its_sums_as_without_local_learning():
    run, plain = Trainer(build(ghm(4))), build(ghm(None)).train()
    plain.load_state_dict({k: v for k, v in run.model.state_dict().items() if '.auxiliaries.' not in k})
    plain.train_step(batch(), OptimWrapper(optimizer=torch.optim.SGD(plain.parameters(), lr=0.01)))
    run.step()
    for name in ('loss_cls', 'loss_bbox'):
        ours, theirs = (getattr(model.bbox_head, name).acc_sum for model in (run.model, plain))
        assert torch.equal(ours, theirs) and ours.sum() > 0


def two_stage(roi_head=None, bbox_head=None, rcnn=None):
    cfg = copy.deepcopy(detector('faster_rcnn', 3))
    cfg['roi_head'].update(roi_head or {})
    cfg['roi_head']['bbox_head'].update(bbox_head or {})
    cfg['train_cfg']['rcnn'].update(rcnn or {})
    return Trainer(build(cfg))


def test_seesaw_counts_the_samples_of_the_main_loss():
    loss = dict(type='SeesawLoss', num_classes=CLASSES)
    run = two_stage(bbox_head=dict(loss_cls=loss, cls_predictor_cfg=dict(type='NormedLinear')))
    counted, forward = [], run.model.roi_head.bbox_head.loss_cls.forward
    counts = run.model.roi_head.bbox_head.loss_cls.cum_samples

    def spy(*args, **kwargs):
        before = counts.clone()
        loss = forward(*args, **kwargs)
        counted.append(counts - before)
        assert not before.any()
        return loss

    run.model.roi_head.bbox_head.loss_cls.forward = spy
    run.step()
    assert len(counted) == 3 and torch.equal(counts, counted[-1]) and counts.any()


@pytest.mark.parametrize('interval', [100, 2])
def test_dynamic_rcnn_keeps_the_history_of_its_main_losses_and_sets_by_it_alone(interval):
    dynamic = dict(iou_topk=2, beta_topk=2, update_iter_interval=interval, initial_iou=0.1, initial_beta=1.0)
    run = two_stage(
        dict(type='DynamicRoIHead'), dict(loss_bbox=dict(type='SmoothL1Loss', beta=1.0)), dict(dynamic_rcnn=dynamic)
    )
    head, seen = run.model.roi_head, []
    update = head.update_hyperparameters
    head.update_hyperparameters = lambda: seen.append(list(head.iou_history)) or update()
    threshold = head.bbox_assigner.pos_iou_thr
    run.step()
    assert len(head.iou_history) == 1 and len(head.beta_history) <= 1 and not seen
    assert head.bbox_assigner.pos_iou_thr == threshold
    run.step()
    if interval == 100:
        assert len(head.iou_history) == 2
    else:  # every loss of the second step is the second one to its eyes
        assert [len(history) for history in seen] == [2, 2, 2] and head.iou_history == []
        assert head.bbox_assigner.pos_iou_thr == max(0.1, sum(seen[-1]) / 2)


def test_a_private_head_counts_its_own_losses():
    cfg = ghm(3)
    cfg['backbone']['auxiliary']['head'] = 'private'
    run = Trainer(build(cfg))
    run.step()
    sums = [auxiliary.heads.bbox_head.loss_cls.acc_sum for auxiliary in run.model.backbone.auxiliaries]
    assert all(own.any() for own in sums)
