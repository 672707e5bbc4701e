"""Which loss trains which parameter, measured."""

import pytest
import torch

from man_mm.analysis.audit import MAIN, audit_step
from man_mm.analysis.step import TrainStep

from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier
from ..helpers.detection import batch, retinanet
from ..helpers.restoration import batch as pairs
from ..helpers.restoration import editor
from ..helpers.steps import step_config
from ..helpers.training import forget_to_detach


def audit(model=None, change=lambda model: None, **wrapper):
    step = TrainStep(step_config(model or retinanet(4), **wrapper))
    change(step.model)
    return step, {row.part: row for row in audit_step(step, batch())}


def test_every_unit_is_trained_by_its_own_loss_and_the_head_by_all():
    step, rows = audit()
    modules = [rows[str(module)] for module in step.local_backbone.local_modules]
    assert [list(row.trained_by) for row in modules] == [[0], [1], [2], [MAIN]]
    assert [list(rows[f'auxiliary of module {m}'].trained_by) for m in range(3)] == [[0], [1], [2]]
    assert list(rows['bbox_head'].trained_by) == [0, 1, 2, MAIN]
    assert list(rows['neck'].trained_by) == [MAIN]
    assert not any(row.foreign for row in rows.values())


def test_the_parts_are_the_model_and_every_trained_parameter_is_counted():
    step, rows = audit()
    assert sum(row.parameters for row in rows.values()) == len(list(step.model.parameters()))
    for row in rows.values():
        assert max(row.trained_by.values()) == row.parameters - row.fixed - len(row.untrained)


def test_eager_steps_are_audited_alike():
    (_, plain), (_, eager) = audit(), audit(eager_step=True)
    assert plain == eager


def test_frozen_parameters_are_fixed_and_idle_ones_are_named():
    def change(model):
        model.backbone.backbone.conv1.requires_grad_(False)
        model.neck.register_parameter('idle', torch.nn.Parameter(torch.zeros(1)))

    step, rows = audit(change=change)
    assert rows[str(step.local_backbone.local_modules[0])].fixed == 1
    assert rows['neck'].untrained == ('neck.idle',)


def test_an_auxiliary_that_modules_share_is_one_part():
    _, rows = audit(retinanet(9, auxiliary=dict(cut_stage=False), share='stage'))
    shared = [row for part, row in rows.items() if part.startswith('auxiliary of modules')]
    assert shared and all(len(row.trained_by) > 1 and not row.foreign for row in shared)


@pytest.mark.parametrize('tail', ['shared', None])
def test_a_tail_is_trained_by_the_modules_that_share_it_and_that_is_no_leak(tail):
    step = TrainStep(step_config(editor(auxiliary=dict(tail=tail) if tail else None), 'mmagic'))
    rows = {row.part: row for row in audit_step(step, pairs())}
    assert not any(row.foreign for row in rows.values())
    assert list(rows['backbone, outside of its units'].trained_by) == ([0, 1, MAIN] if tail else [MAIN])


def test_a_leak_is_seen(monkeypatch):
    forget_to_detach(monkeypatch)
    step = TrainStep(step_config(retinanet(2)))
    first = step.local_backbone.local_modules[0]
    rows = {row.part: row for row in audit_step(step, batch())}
    assert list(rows[str(first)].trained_by) == [0, MAIN]
    assert rows[str(first)].foreign[0].startswith('backbone.backbone.')


def test_plain_back_propagation_has_no_parts_to_audit():
    step = TrainStep(step_config(classifier(None), scope='mmpretrain'))
    with pytest.raises(ValueError, match='LocalBackbone'):
        audit_step(step, labelled())
