"""clip_grad: one norm over all parameters as upstream's, or one a module."""

import pytest
import torch

from ..helpers.training import assert_equal, gradients, local_parameters, trainer

MAX_NORM = 0.05


def norm(grads, names):
    return torch.stack([grads[name].norm() for name in names]).norm()


def test_global_clipping_scales_all_gradients_alike():
    free = gradients(num_modules=4)
    clipped = gradients(num_modules=4, clip_grad=dict(max_norm=MAX_NORM))
    factor = MAX_NORM / (norm(free, free) + 1e-6)
    assert factor < 1
    assert_equal(clipped, {name: grad * factor for name, grad in free.items()}, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('auxiliary', [{}, dict(head='private')], ids=str)
def test_clipping_per_module_gives_every_module_and_the_rest_its_own_norm(auxiliary):
    free = gradients(num_modules=4, auxiliary=auxiliary)
    run = trainer(4, auxiliary=auxiliary, clip_grad=dict(max_norm=MAX_NORM, per_module=True))
    run.step()
    parts = {f'local_{m:02d}/grad_norm': local_parameters(run.model, m) for m in range(4)}
    parts['grad_norm'] = free.keys() - set().union(*parts.values())
    factors = []
    for key, names in parts.items():
        whole = norm(free, names)
        assert run.optim_wrapper.message_hub.get_scalar(f'train/{key}').current() == pytest.approx(
            whole.item(), rel=1e-4
        )
        factors.append(min(1.0, (MAX_NORM / (whole + 1e-6)).item()))
        assert_equal(
            {n: run.gradients[n] for n in names}, {n: free[n] * factors[-1] for n in names}, rtol=1e-4, atol=1e-7
        )
    assert len(set(factors)) > 2


@pytest.mark.parametrize('eager_step', [False, True])
def test_norms_of_the_neck_and_of_the_shared_head_are_logged_apart_and_by_them_nothing_is_clipped(eager_step):
    free = gradients(num_modules=4)
    run = trainer(4, clip_grad=dict(max_norm=1e9, per_module=True), eager_step=eager_step)
    run.step()
    for part in ('neck', 'bbox_head'):
        whole = norm(free, [name for name in free if name.startswith(part)])
        logged = run.optim_wrapper.message_hub.get_scalar(f'train/grad_norm/{part}').current()
        assert logged == pytest.approx(whole.item(), rel=1e-4)
    assert_equal(run.gradients, {name: free[name] for name in run.gradients}, rtol=1e-5, atol=1e-8)


def test_clipping_by_value_per_module_clips():
    run = trainer(4, clip_grad=dict(type='value', clip_value=1e-3, per_module=True))
    run.step()
    assert max(grad.abs().max() for grad in run.gradients.values()) == pytest.approx(1e-3)


def test_clipping_per_module_by_nothing_is_refused():
    with pytest.raises(ValueError, match=r'clip_grad.per_module=True needs what to clip by'):
        trainer(4, clip_grad=dict(per_module=True))
