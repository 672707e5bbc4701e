"""eager_step steps a module right after its backward; the numbers are those of the ordinary step."""

import pytest
import torch

from man_mm.engine import LocalOptimWrapper

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import SpyWrapper, Trainer, assert_equal, local_parameters, trainer


@pytest.mark.parametrize(
    ('num_modules', 'auxiliary', 'optimizer'),
    [
        (1, {}, torch.optim.SGD),
        (2, dict(shared_head_grad='mean'), torch.optim.AdamW),
        (3, dict(neck='shared'), torch.optim.SGD),
        (3, dict(head='private'), torch.optim.AdamW),
        (9, {}, torch.optim.SGD),
    ],
    ids=str,
)
def test_eager_steps_end_in_the_weights_of_ordinary_steps(num_modules, auxiliary, optimizer):
    runs = [
        trainer(num_modules, auxiliary=auxiliary, optimizer=optimizer, lr=1e-3, eager_step=eager)
        for eager in (False, True)
    ]
    for i in range(2):  # the second one with momentum
        logs = [run.step(batch(first=i)) for run in runs]
        assert logs[0] == logs[1]
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_a_modules_gradients_are_gone_before_the_next_module_runs():
    model = build(retinanet(4))
    alive = []

    def after(module):
        alive.append({name for name, p in model.named_parameters() if p.grad is not None})

    run = Trainer(model, SpyWrapper, after=after, eager_step=True)
    run.step()
    head = {name for name, _ in model.named_parameters() if name.startswith('bbox_head')}
    assert alive[:3] == [head] * 3
    assert alive[3] == head | local_parameters(model, 3) | {n for n, _ in model.named_parameters() if n[:4] == 'neck'}


def test_each_local_loss_is_checked_once_when_its_module_is_stepped(monkeypatch):
    checked, check = [], LocalOptimWrapper._check_finite

    def spy(wrapper):
        checked.append({module for module, _ in wrapper._unchecked})
        check(wrapper)

    monkeypatch.setattr(LocalOptimWrapper, '_check_finite', spy)
    trainer(4, eager_step=True).step()
    assert checked == [{0}, {1}, {2}, set()]


@pytest.mark.parametrize('eager_step', [False, True])
def test_norms_of_all_modules_are_read_at_once(eager_step, monkeypatch):
    asked, values_of = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda tensor: asked.append(tensor) or values_of(tensor))
    counts = []
    for options in ({}, dict(clip_grad=dict(max_norm=1.0, per_module=True))):
        asked.clear()
        trainer(4, eager_step=eager_step, **options).step()
        counts.append(len(asked))
    assert counts[1] == counts[0] + 1


@pytest.mark.parametrize('auxiliary', [{}, dict(head='private')], ids=str)
def test_clipping_per_module_is_the_same_with_and_without_eager_steps(auxiliary):
    clip = dict(max_norm=0.05, per_module=True)
    runs = [trainer(4, auxiliary=auxiliary, eager_step=eager, clip_grad=dict(clip)) for eager in (False, True)]
    for run in runs:
        run.step()
        run.step(batch(first=7))
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (dict(accumulative_counts=2), 'accumulative_counts=2'),
        (dict(clip_grad=dict(max_norm=1.0)), r'clip_grad over all parameters \(set clip_grad.per_module=True\)'),
    ],
    ids=['accumulation', 'global clip'],
)
def test_eager_step_is_refused_where_it_would_change_the_numbers(options, reason):
    with pytest.raises(ValueError, match=f'optim_wrapper.eager_step=True does not go with {reason}'):
        trainer(4, eager_step=True, **options)


@pytest.mark.parametrize('eager_step', [False, True])
def test_a_step_that_failed_leaves_no_losses_behind_for_the_next_one(eager_step):
    run = trainer(4, eager_step=eager_step)

    def fail(*_):
        raise InterruptedError

    failing = run.model.neck.register_forward_pre_hook(fail)
    with pytest.raises(InterruptedError):
        run.step()
    assert not run.optim_wrapper.local_losses
    failing.remove()
    assert run.step()['loss'] > 0


@pytest.mark.parametrize('eager_step', [False, True])
def test_a_local_loss_that_is_not_finite_is_an_error_in_a_loop_without_a_context_too(eager_step):
    """`optim_context` clears the losses of the step before; a loop of one's own may do without it."""
    run = trainer(4, eager_step=eager_step)
    data = run.model.data_preprocessor(batch(), True)

    def step():
        run.optim_wrapper.update_params(run.model.parse_losses(run.model(**data, mode='loss'))[0])

    step()
    neck = run.model.backbone.auxiliaries[1].neck
    neck.register_forward_hook(lambda module, args, out: tuple(level * float('inf') for level in out))
    with pytest.raises(FloatingPointError, match='of module 1'):
        step()
