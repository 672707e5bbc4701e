"""float16 with a real scaler: an overflow skips one step of all modules, and training goes on behind it."""

import pytest
import torch

from man_mm.engine import LocalAmpOptimWrapper

from ..helpers.training import trainer

STEPS = 20


def half_trainer(scale, **options):
    scaling = dict(init_scale=scale, growth_interval=1000)
    return trainer(wrapper=LocalAmpOptimWrapper, dtype='float16', loss_scale=scaling, **options)


def weights(run):
    return [p.detach().clone() for p in run.model.parameters()]


def test_real_overflows_bring_the_scale_down_and_move_no_weight():
    run = half_trainer(2.0**30)
    skipped = 0
    for _ in range(STEPS):
        before, scale = weights(run), run.optim_wrapper.loss_scaler.get_scale()
        run.step()
        is_skipped = run.optim_wrapper.loss_scaler.get_scale() < scale
        has_moved = not all(map(torch.equal, before, weights(run)))
        assert has_moved != is_skipped
        skipped += is_skipped
    assert 0 < skipped < STEPS
    assert all(p.isfinite().all() for p in run.model.parameters())


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.5, per_module=True)], ids=['plain', 'clipped by module'])
def test_overflow_of_one_module_skips_one_step_of_all(clip):
    run = half_trainer(2.0**10, clip_grad=clip)
    run.step()
    before = weights(run)
    neck = run.model.backbone.auxiliaries[2].neck
    handle = neck.register_forward_hook(lambda _, args, out: tuple(level * float('inf') for level in out))
    run.step()
    handle.remove()
    assert all(map(torch.equal, before, weights(run)))
    assert run.optim_wrapper.loss_scaler.get_scale() == 2.0**9
    run.step()
    assert not all(map(torch.equal, before, weights(run)))
    assert run.optim_wrapper.loss_scaler.get_scale() == 2.0**9
