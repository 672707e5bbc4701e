"""bfloat16 on CPUs whose oneDNN returns garbage: told once, by a trial, and nowhere else."""

import pytest
import torch

from man_mm.local import bfloat16

from ..helpers.detection import build, images, retinanet

pytestmark = pytest.mark.cpu_only('the fault is of oneDNN')


@pytest.fixture
def told(monkeypatch):
    """What is said, from a process that has said nothing."""
    lines = []
    bfloat16._warn.cache_clear()
    monkeypatch.setattr(bfloat16, 'print_log', lambda text, **_: lines.append(text))
    yield lines
    bfloat16._warn.cache_clear()


@pytest.mark.parametrize('num_modules', [1, 4])
@pytest.mark.parametrize(
    ('broken', 'dtype', 'warnings'), [(True, torch.bfloat16, 1), (False, torch.bfloat16, 0), (True, None, 0)]
)
def test_training_in_bfloat16_warns_once_on_a_cpu_that_has_the_fault(
    told, monkeypatch, num_modules, broken, dtype, warnings
):
    monkeypatch.setattr(bfloat16, 'gradients_are_garbage', lambda: broken)
    backbone = build(retinanet(num_modules)).backbone.train()
    for _ in range(2):
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            backbone(images())
    assert len(told) == warnings and all('torch.backends.mkldnn.enabled = False' in text for text in told)


def test_the_trial_finds_garbage_and_finds_none_without_onednn(monkeypatch):
    state = torch.get_rng_state()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not bfloat16.gradients_are_garbage()
    exact = torch.autograd.grad
    calls = []

    def garbage(loss, weight):
        calls.append(loss)
        (grad,) = exact(loss, weight)
        return (grad if len(calls) == 1 else torch.full_like(grad, bfloat16.JUNK),)  # the first is in float32

    monkeypatch.setattr(torch.autograd, 'grad', garbage)
    assert bfloat16.gradients_are_garbage()
    assert torch.equal(torch.get_rng_state(), state)
