"""What ActivationCheckpointHook puts into a model is there while a loss is computed, and shows to nobody else."""

import copy
import pickle
from unittest.mock import Mock

import pytest
import torch
from mmengine.optim import OptimWrapper

from man_mm.engine import ActivationCheckpointHook

from ..helpers.checkpointed import BP, LEVELS, PRIVATE, Run, head_calls, patched
from ..helpers.detection import batch


@pytest.fixture
def calls(monkeypatch):
    return head_calls(monkeypatch)


@pytest.mark.parametrize('options', [{}, dict(num_modules=4, auxiliary=PRIVATE)], ids=str)
def test_evaluation_and_copies_see_the_plain_model(options, calls):
    plain, run = Run(**options), Run(BP, **options)
    plain.step()
    run.step()
    for model in (run.model, copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))):
        assert not patched(model)
        assert model.state_dict().keys() == plain.model.state_dict().keys()
        calls.clear()
        ours, theirs = (m.eval().test_step(batch())[0].pred_instances for m in (model, plain.model))
        assert torch.equal(ours.bboxes, theirs.bboxes) and torch.equal(ours.scores, theirs.scores)
        assert not any(is_patched for _, is_patched in calls)


def test_a_copy_computes_with_its_own_weights_and_is_checkpointed_itself(calls):
    run = Run(BP)
    run.step()
    other = copy.deepcopy(run.model)
    for p in other.parameters():
        p.data.mul_(0.5)
    calls.clear()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    other.train_step(batch(), OptimWrapper(optimizer=optimizer))
    assert [head for head, _ in calls] == [other.bbox_head] * 2 * LEVELS
    assert not patched(other) and not patched(run.model)


def test_a_copy_made_inside_a_forward_computes_with_its_own_weights(calls):
    run, copies = Run(BP), []
    run.model.neck.register_forward_hook(lambda *_: copies.append(copy.deepcopy(run.model)))
    run.step()
    calls.clear()
    copies[0].eval().test_step(batch())
    assert [head for head, _ in calls] == [copies[0].bbox_head] * LEVELS
    assert not patched(copies[0])


def test_binding_twice_does_not_stack_and_two_hooks_do_not_either(calls):
    run = Run(BP)
    run.hook.bind(run.model)
    other = ActivationCheckpointHook(['*bbox_head.forward_single'])
    other.bind(run.model)
    run.step()
    assert len(calls) == 2 * LEVELS and not patched(run.model)
    other.after_train(None)
    run.hook.after_train(None)
    assert not run.model._forward_pre_hooks and not run.model._forward_hooks
    calls.clear()
    run.step()
    assert len(calls) == LEVELS


def test_a_method_replaced_by_another_tool_is_used_and_given_back():
    run = Run(['neck'])
    run.model.neck.forward = forward = Mock(wraps=run.model.neck.forward)
    run.step()
    assert vars(run.model.neck)['forward'] is forward and forward.call_count == 2


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_as_it_was(error, calls):
    run = Run(BP)

    def fail(*_):
        raise error

    handle = run.model.bbox_head.retina_cls.register_forward_hook(fail)
    with pytest.raises(error):
        run.step()
    handle.remove()
    if error is RuntimeError:  # torch runs no hooks for the other one
        assert not patched(run.model)
    calls.clear()
    run.model.eval().test_step(batch())
    assert [is_patched for _, is_patched in calls] == [False] * LEVELS and not patched(run.model)


@pytest.mark.parametrize('mode', ['no_grad', 'eval'])
def test_without_gradients_nothing_is_patched(mode, calls):
    run = Run(BP)
    run.model.train(mode != 'eval')
    with torch.set_grad_enabled(mode != 'no_grad'):
        run.losses()
    assert [is_patched for _, is_patched in calls] == [False] * LEVELS
