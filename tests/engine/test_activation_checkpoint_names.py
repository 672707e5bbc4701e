"""What ActivationCheckpointHook.functions may name."""

import re

import pytest
from mmengine.registry import HOOKS

from man_mm.engine import ActivationCheckpointHook

from ..helpers.checkpointed import LEVELS, PRIVATE, Run, head_calls
from ..helpers.detection import build, retinanet
from ..helpers.training import fake_runner


@pytest.fixture
def calls(monkeypatch):
    return head_calls(monkeypatch)


@pytest.mark.parametrize(
    ('entry', 'similar'),
    [
        ('nek', "'neck'"),
        ('bbox_hed.forward_single', "'bbox_head.forward_single'"),
        ('bbox_head.forward_singel', "'bbox_head.forward_single'"),
        ('backbone.auxiliaries.*.heads.bbox_hed.forward_single', 'bbox_head.forward_single'),
        ('bbox_head.cls_convs', 'bbox_head.cls_convs.0'),  # a list of modules has no forward
        ('loss', "Its parts: ['data_preprocessor', 'backbone', 'neck', 'bbox_head']"),
        ('neck.parameters', 'Its parts'),
    ],
)
def test_an_entry_that_means_nothing_raises_with_what_is_legal(entry, similar):
    model = build(retinanet(4, auxiliary=PRIVATE))
    with pytest.raises(
        ValueError, match=f'ActivationCheckpointHook.functions: {re.escape(repr(entry))} is neither'
    ) as error:
        ActivationCheckpointHook(['neck', entry]).before_train(fake_runner(model=model))
    assert similar in str(error.value)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize('entry', ['backbone', 'back*'])
def test_modules_trained_by_local_losses_cannot_be_recomputed(entry):
    with pytest.raises(
        ValueError, match=f'ActivationCheckpointHook.functions: {re.escape(repr(entry))} means backbone, which'
    ):
        ActivationCheckpointHook([entry]).bind(build(retinanet(4)))
    ActivationCheckpointHook([entry]).bind(build(retinanet(1)))


@pytest.mark.parametrize('functions', ['neck', [], None, [3], dict(neck=1)])
def test_functions_must_be_a_list_of_names(functions):
    with pytest.raises(ValueError, match=re.escape(f'ActivationCheckpointHook.functions={functions!r} must be a list')):
        HOOKS.build(dict(type='man_mm.ActivationCheckpointHook', functions=functions))


def test_wildcards_stand_for_parts_of_a_path(calls):
    run = Run(['backbone.auxiliaries.[01].heads.b?ox_head.forward_single'], 4, PRIVATE)
    run.step()
    own = [auxiliary.heads['bbox_head'] for auxiliary in run.model.backbone.auxiliaries]
    counts = [sum(head is called for called, _ in calls) for head in (*own, run.model.bbox_head)]
    assert counts == [2 * LEVELS, 2 * LEVELS, LEVELS, LEVELS]


def test_functions_that_training_does_not_call_are_one_warning(monkeypatch):
    said = []
    monkeypatch.setattr('man_mm.engine.activation_checkpoint_hook.print_log', lambda message, **_: said.append(message))
    run = Run(['neck', 'bbox_head.predict', 'bbox_head.forward_single', 'neck*.conv'])
    for i in range(2):
        run.step()
        run.hook.after_train_iter(fake_runner(iter=i), i)
    assert said == [
        "ActivationCheckpointHook.functions: ['bbox_head.predict'] save nothing so far: "
        'the first iteration called none of them.'
    ]
