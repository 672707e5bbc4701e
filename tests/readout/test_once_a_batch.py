"""The targets of a batch are made once for all losses, and nothing else changes, to the bit."""

import copy
from collections import Counter
from typing import ClassVar

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from man_mm.engine import ActivationCheckpointHook
from man_mm.readout import memo, once_a_batch, values
from man_mm.readout.mmdet import DetectorReadout

from ..helpers.detection import CLASSES, FPN, PREPROCESSOR, RETINA_HEAD, batch, build, local_backbone, retinanet
from ..helpers.detectors import ANCHORS, detector
from ..helpers.training import Trainer, assert_equal

OTHER_ANCHORS = {**ANCHORS, 'strides': [8, 16, 32, 64]}
LIGHT = {**RETINA_HEAD, 'feat_channels': 4, 'stacked_convs': 2}
IMAGES, K = 2, 3
CASES = {
    'shared': lambda: retinanet(K),
    'private': lambda: retinanet(K, auxiliary=dict(head='private')),
    'light': lambda: retinanet(K, auxiliary=dict(head=dict(bbox_head=LIGHT))),
    'other anchors': lambda: retinanet(
        K, auxiliary=dict(head=dict(bbox_head={**LIGHT, 'anchor_generator': OTHER_ANCHORS}))
    ),
    'fcos': lambda: detector('fcos', K, head='private'),
    'atss': lambda: dense('ATSS', 'ATSSHead', dict(type='ATSSAssigner', topk=9)),
    'gfl': lambda: dense('GFL', 'GFLHead', dict(type='ATSSAssigner', topk=9), loss_cls=dict(type='QualityFocalLoss')),
    'paa': lambda: dense('PAA', 'PAAHead', {**retinanet(1)['train_cfg']['assigner'], 'pos_iou_thr': 0.1}),
    'faster_rcnn': lambda: detector('faster_rcnn', K),
    'faster_rcnn private': lambda: detector('faster_rcnn', K, head='private'),
    'detr': lambda: detector('detr', K),
}


def dense(kind, head, assigner, **options):
    """Config of a detector of one stage with one square anchor a place."""
    anchors = {**OTHER_ANCHORS, 'scales': [8], 'ratios': [1.0]}
    plain = dict(num_classes=CLASSES, in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors)
    group = dict(type='GN', num_groups=2)
    return dict(
        type=kind,
        data_preprocessor=PREPROCESSOR,
        backbone=local_backbone(num_modules=K, auxiliary=dict(head='private')),
        neck=FPN,
        bbox_head=dict(type=head, **plain, norm_cfg=group, loss_bbox=dict(type='GIoULoss'), **options),
        train_cfg=dict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False),
    )


@pytest.fixture
def upstream(monkeypatch):
    """Call it, and every loss makes its targets as upstream does."""
    return lambda: monkeypatch.setattr(DetectorReadout, 'open_batch', lambda self, inputs, targets: None)


@pytest.fixture
def assigned(monkeypatch):
    """Counts what prior generators and assigners are asked for."""
    from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner, MlvlPointGenerator
    from mmdet.models.task_modules.assigners import ATSSAssigner, HungarianAssigner

    calls = Counter()
    for cls, name in [
        *((cls, 'assign') for cls in (MaxIoUAssigner, ATSSAssigner, HungarianAssigner)),
        *((cls, 'grid_priors') for cls in (AnchorGenerator, MlvlPointGenerator)),
    ]:
        monkeypatch.setattr(cls, name, counted(getattr(cls, name), calls))
    return calls


def counted(method, calls):
    def count(self, *args, **kwargs):
        calls[method.__name__] += 1
        return method(self, *args, **kwargs)

    return count


def step(run):
    """All that a step tells."""
    torch.manual_seed(0)  # samplers draw
    logs = run.step(batch(IMAGES))
    return {**logs, **{f'{m}/{name}': loss for (m, name), loss in run.optim_wrapper.local_losses.items()}}


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=pytest.mark.long) if case in ('gfl', 'faster_rcnn') else case for case in CASES]
)
def test_losses_and_gradients_are_those_of_targets_made_for_every_loss(case, upstream):
    run = Trainer(build(CASES[case]()))
    ours = [(step(run), run.gradients) for _ in range(2)]
    upstream()
    run = Trainer(build(CASES[case]()))
    for losses, gradients in ours:
        assert_equal(losses, step(run))
        assert_equal(gradients, run.gradients)


@pytest.mark.parametrize(
    ('case', 'assign', 'grid_priors'),
    [
        ('shared', 1, 1),
        ('private', 1, 1),
        ('light', 1, 1),
        ('other anchors', 2, 2),
        ('fcos', 0, 1),
        ('atss', 1, 1),
        ('faster_rcnn', 1 + K, 2),  # the RPN's once, of its proposals for every loss
        ('faster_rcnn private', 1 + K, 2),
        ('detr', 2 * K, 0),  # two decoder layers: what is matched with predictions, upstream's way
    ],
)
def test_what_does_not_depend_on_predictions_is_assigned_once_a_batch(case, assign, grid_priors, assigned):
    run = Trainer(build(CASES[case]()))
    for _ in range(2):
        assigned.clear()
        step(run)
        assert assigned == Counter({'assign': assign * IMAGES, 'grid_priors': grid_priors})


class Waits(TorchDispatchMode):
    """Counts what the host would wait for on a device: numbers, and tensors whose size depends on values."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_masked = name.startswith('index') and any(i is not None and i.dtype == torch.bool for i in args[1])
        if is_masked or name in ('_local_scalar_dense', 'nonzero', '_unique2', 'equal'):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('head', ['shared', 'private', dict(bbox_head=LIGHT)], ids=['shared', 'private', 'light'])
def test_a_step_waits_as_often_as_back_propagation_and_once_a_module(head, monkeypatch):
    # torch's asks for the range of the labels; the focal loss of CUDA does not need it
    monkeypatch.setattr(F, 'one_hot', lambda labels, num_classes: (labels[:, None] == torch.arange(num_classes)).long())
    bp = build(retinanet(None)).train()
    wrapper = OptimWrapper(torch.optim.SGD(bp.parameters(), lr=0.01))
    with Waits() as plain:
        bp.train_step(batch(), wrapper)
    run = Trainer(build(retinanet(K, auxiliary=dict(head=head))))
    with Waits() as ours:
        run.step()
    assert sum(plain.calls.values()) > 30
    assert sum(ours.calls.values()) <= sum(plain.calls.values()) + K, ours.calls - plain.calls


def stand_ins(model):
    """Methods that are not the class's own, of heads and of what they assign with."""
    parts = [part for part in model.modules() if hasattr(part, 'loss_by_feat')]
    tools = [tool for part in parts for tool in vars(part).values() if hasattr(tool, '__dict__')]
    return [
        name for part in (*parts, *tools) for name, value in vars(part).items() if isinstance(value, values.StandIn)
    ]


@pytest.mark.parametrize('case', ['private', 'faster_rcnn'])
def test_nothing_is_left_of_it_after_a_step_or_an_exception_nor_acts_in_evaluation(case):
    run = Trainer(build(CASES[case]()))
    once, seen = run.hook._readout.once_a_batch, []

    def look(*_):
        seen.append(once._memo)
        assert stand_ins(run.model)
        if len(seen) > K:
            raise RuntimeError('out of memory')

    head = run.model.backbone.auxiliaries[-1].heads if case == 'private' else run.model
    (head.bbox_head if case == 'private' else head.rpn_head).register_forward_pre_hook(look)
    first = len(seen)
    with pytest.raises(RuntimeError, match='out of memory'):
        for _ in range(K + 2):
            run.step()
            assert once._memo is None and not once._replaced and not stand_ins(run.model)
    assert len(seen) > first and once._memo is None and not stand_ins(run.model)
    run.model.eval()
    run.model.test_step(batch()) if case == 'private' else None
    assert not stand_ins(run.model)
    copy.deepcopy(run.model)


@pytest.mark.parametrize(
    ('first', 'functions'),
    [('bank', ['bbox_head.loss_by_feat']), ('checkpoints', ['bbox_head.loss', 'bbox_head.get_targets'])],
    ids=str,
)
def test_a_head_that_is_recomputed_sees_the_same_targets(functions, first):
    plain = Trainer(build(retinanet(K)))
    expected = step(plain)
    run = Trainer(build(retinanet(K)))
    ActivationCheckpointHook(functions).bind(run.model)
    if first == 'checkpoints':
        run.hook.before_train(run)
    assert_equal(step(run), expected)
    assert_equal(run.gradients, plain.gradients)
    assert not stand_ins(run.model) and not vars(run.model.bbox_head).keys() & {'loss', 'loss_by_feat', 'get_targets'}


class Head(torch.nn.Module):
    """Makes things of what it is given."""

    calls: ClassVar = Counter()

    def __init__(self, width=1):
        super().__init__()
        self.width, self._raw_positive_infos = width, {}

    def double(self, points):
        self.calls['double'] += 1
        return [points * 2]

    def join(self, points):
        self.calls['join'] += 1
        points[:] = [torch.cat(points)]
        return points[0] + 1

    def draw(self, points):
        self.calls['draw'] += 1
        return torch.rand_like(points)

    def note(self, points):
        self._raw_positive_infos.update(found=points)
        return points + 0

    def grow(self, points):
        self.width += 1
        return points * self.width


@pytest.fixture
def points():
    return torch.arange(4.0)


@pytest.fixture
def made(points):
    Head.calls.clear()
    return memo.Memo([points])


def call(made, head, name, *args):
    return made.call(head, name, getattr(head, name), args, {})


def test_an_equal_call_is_made_once_and_gives_lists_of_its_own(made, points):
    head = Head()
    first = call(made, head, 'double', points)
    second = call(made, head, 'double', points)
    assert head.calls == {'double': 1} and first[0] is second[0] and first is not second
    assert call(made, Head(), 'double', points)[0] is first[0]
    assert call(made, Head(width=2), 'double', points)[0] is not first[0]


def test_lists_that_a_call_changes_are_changed_again(made, points):
    head, first, second = Head(), [points, points], [points, points]
    assert call(made, head, 'join', first) is call(made, head, 'join', second)
    assert head.calls == {'join': 1} and second[0] is first[0] and second[0].shape == (8,)


@pytest.mark.parametrize('change', ['argument', 'result'])
def test_what_was_changed_in_place_is_made_anew(made, points, change):
    head = Head()
    first = call(made, head, 'double', points)[0]
    (points if change == 'argument' else first).add_(1)
    call(made, head, 'double', points)
    assert head.calls == {'double': 2}


def test_random_numbers_predictions_and_what_is_made_of_them_are_never_kept(made, points):
    head = Head()
    assert not torch.equal(call(made, head, 'draw', points), call(made, head, 'draw', points))
    for prediction in (torch.zeros(4), torch.zeros(4, requires_grad=True), points.detach()):
        call(made, head, 'double', prediction)
        call(made, head, 'double', prediction)
    assert head.calls == {'draw': 2, 'double': 6} and not made._entries


def test_a_call_that_changes_its_head_is_not_kept_but_its_notes_are_repeated(made, points):
    head, other = Head(), Head()
    assert not torch.equal(call(made, head, 'grow', points), call(made, head, 'grow', points))
    assert call(made, other, 'note', points) is call(made, Head(), 'note', points)
    again = Head()
    call(made, again, 'note', points)
    assert again._raw_positive_infos['found'] is points


def test_only_what_asks_for_targets_or_priors_stands_to_be_made_once():
    from mmdet.models import VFNetHead

    assert once_a_batch._target_methods(VFNetHead) == (
        'get_anchors',
        'get_atss_targets',
        'get_fcos_targets',
        'get_targets',
    )
