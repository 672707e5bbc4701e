"""Local gradients are scaled for accumulation as the main ones are: small batches add up to the large one."""

import pytest
import torch

from ..helpers.detection import batch
from ..helpers.training import assert_equal, gradients, trainer

OPTIONS = [{}, dict(head='private'), dict(shared_head_grad='mean')]


@pytest.mark.parametrize(('counts', 'auxiliary'), list(zip((1, 4, 2), OPTIONS, strict=True)), ids=str)
def test_accumulated_batches_give_the_gradients_of_the_large_batch(counts, auxiliary):
    size = 4 // counts
    small = [batch(size, first=size * i) for i in range(counts)]
    expected = gradients(batch(4), num_modules=3, auxiliary=auxiliary)
    got = gradients(*small, num_modules=3, auxiliary=auxiliary, accumulative_counts=counts)
    assert_equal(got, expected, rtol=1e-4, atol=1e-6)


def test_only_main_losses_count_as_steps():
    run = trainer(4, accumulative_counts=3)
    before = run.model.backbone.conv1.weight.clone()
    for count in (1, 2):
        run.step()
        assert run.optim_wrapper.inner_count == count and not run.gradients
        assert torch.equal(run.model.backbone.conv1.weight, before)
    run.step()
    assert run.gradients and not torch.equal(run.model.backbone.conv1.weight, before)
    assert all(p.grad is None for p in run.model.parameters())


def test_a_last_incomplete_accumulation_is_scaled_by_its_own_length():
    expected = gradients(batch(2), num_modules=4)
    run = trainer(4, accumulative_counts=4)
    run.optim_wrapper.initialize_count_status(run.model, 4, 6)  # 6 iterations in all: the last step holds 2
    run.step(batch(1, first=0), batch(1, first=1))
    assert_equal(run.gradients, expected, rtol=1e-4, atol=1e-6)
