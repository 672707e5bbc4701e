"""Local losses and the bank's bytes reach the message hub, and so every visualizer."""

import json

import pytest

from man_mm.engine import FeatureBankHook

from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import trainer

TERMS = ('cls', 'bbox', 'total')


@pytest.mark.parametrize(('log', 'terms'), [('terms', TERMS), ('total', ('total',))])
def test_the_log_has_every_module_under_its_own_key(log, terms):
    run = trainer(4)
    run.hook.after_train(run)
    run.hook = FeatureBankHook(log=log)
    run.hook.before_train(run)
    run.step()
    local = {key for key in run.message_hub.log_scalars if key.startswith('train/local_')}
    assert local == {f'train/local_{m:02d}/{term}' for m in range(3) for term in terms}


def test_logged_totals_are_the_sums_of_their_terms():
    run = trainer(4)
    run.step()
    for module in range(3):
        cls, bbox, total = (run.message_hub.get_scalar(f'train/local_{module:02d}/{t}').current() for t in TERMS)
        assert total == pytest.approx(cls + bbox, rel=1e-6) and total > 0


def test_logged_losses_hold_no_graph():
    run = trainer(4)
    run.step()
    assert run.optim_wrapper.local_losses
    assert not any(value.requires_grad for value in run.optim_wrapper.local_losses.values())


def test_a_run_writes_local_losses_to_its_scalars_file(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=2)
    runner(run_config(root, tmp_path / 'run', epochs=1)).train()
    (file,) = (tmp_path / 'run').rglob('scalars.json')
    lines = file.read_text().splitlines()
    keys = set(json.loads(lines[-1]))
    assert {f'local_{m:02d}/{term}' for m in range(3) for term in TERMS} | {'bank_mib', 'loss'} <= keys


def test_after_training_the_hook_lets_go_of_the_model():
    run = trainer(4, auxiliary=dict(shared_head_grad='mean'))
    run.step()
    run.hook.after_train(run)
    assert run.model.backbone.step is None
    assert not run.model._forward_hooks and not run.model._forward_pre_hooks
    assert not any(p._backward_hooks for p in run.model.parameters())


def test_of_two_hooks_only_the_last_one_acts():
    run = trainer(4)
    first, run.hook = run.hook, FeatureBankHook(log='total')
    run.hook.before_train(run)
    run.step()
    first.after_train_iter(run, 0)
    scalars = run.message_hub.log_scalars
    assert {key for key in scalars if key.startswith('train/local_')} == {
        f'train/local_{m:02d}/total' for m in range(3)
    }
    assert len(scalars['train/bank_mib'].data[0]) == 1
    first.after_train(run)
    run.step()
    assert len(scalars['train/bank_mib'].data[0]) == 2
