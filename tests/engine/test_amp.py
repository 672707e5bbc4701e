"""Mixed precision: one scaler for local and main losses, unscaled once, and an overflow skips one step.

MMEngine asserts an accelerator, so these tests tell it that there is one and give it PyTorch's scaler for the CPU.
"""

import functools
import logging
from contextlib import contextmanager

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim.optimizer import amp_optimizer_wrapper

from man_mm.engine import LocalAmpOptimWrapper, LocalOptimWrapper

from ..restoration import batch as pairs
from ..restoration import editor, make
from ..training import Trainer, assert_equal, gradients, trainer

CLOSE = dict(rtol=1e-5, atol=1e-8)  # the scale is a power of two
SCALE = dict(init_scale=2.0**10, growth_interval=1000)


@pytest.fixture(autouse=True)
def _cpu_scaler(monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))


class UnscaledWrapper(LocalOptimWrapper):
    """The reference: the same low precision, and no scaler."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def amp_trainer(num_modules=4, **options):
    return trainer(num_modules, wrapper=LocalAmpOptimWrapper, loss_scale=dict(SCALE), dtype='bfloat16', **options)


@pytest.mark.parametrize('options', [{}, dict(clip_grad=dict(max_norm=0.5))], ids=['plain', 'clip'])
@pytest.mark.parametrize('num_modules', [1, 2, 4])
def test_gradients_are_the_unscaled_ones_when_they_reach_the_optimizer(num_modules, options):
    run = amp_trainer(num_modules=num_modules, **options)
    run.step()
    assert run.optim_wrapper.loss_scaler.get_scale() == SCALE['init_scale']
    assert_equal(run.gradients, gradients(num_modules=num_modules, wrapper=UnscaledWrapper, **options), **CLOSE)


def test_accumulation_and_scaling_go_together():
    run = amp_trainer(accumulative_counts=2)
    run.step()
    run.step()
    assert_equal(run.gradients, gradients(num_modules=4, wrapper=UnscaledWrapper), **CLOSE)


def test_local_forwards_run_in_the_low_precision_and_backwards_outside_autocast():
    seen = set()
    run = amp_trainer()
    backbone = run.model.backbone
    backbone.auxiliaries[0].neck.register_forward_hook(lambda module, args, out: seen.add(out[0].dtype))
    backbone.conv1.weight.register_hook(lambda grad: seen.add(torch.is_autocast_enabled('cpu')))
    run.step()
    assert seen == {torch.bfloat16, False}
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in run.gradients.values())


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_instance('amp-test')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_an_overflow_skips_one_step_and_the_log_names_the_module(log):
    run = amp_trainer()
    weights = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    neck = run.model.backbone.auxiliaries[1].neck
    handle = neck.register_forward_hook(lambda module, args, out: tuple(level * float('inf') for level in out))
    run.step()
    handle.remove()
    assert_equal(dict(run.model.named_parameters()), weights)
    scaler = run.optim_wrapper.loss_scaler
    assert scaler.get_scale() == SCALE['init_scale'] / 2  # once, not once per module
    messages = [record.getMessage() for record in log.records if 'scaler skips' in record.getMessage()]
    assert len(messages) == 1 and 'module 1 (' in messages[0]
    run.step()
    assert scaler.get_scale() == SCALE['init_scale'] / 2
    assert not torch.equal(run.model.backbone.conv1.weight, weights['backbone.backbone.conv1.weight'])


def test_the_scaler_is_saved_and_loaded():
    first, second = amp_trainer(), amp_trainer()
    first.step()
    first.optim_wrapper.loss_scaler.update(8.0)
    second.optim_wrapper.load_state_dict(first.optim_wrapper.state_dict())
    assert second.optim_wrapper.loss_scaler.state_dict() == first.optim_wrapper.loss_scaler.state_dict()


def test_eager_step_is_refused():
    with pytest.raises(ValueError, match=r'eager_step=True does not go with LocalAmpOptimWrapper'):
        amp_trainer(eager_step=True)


@pytest.mark.parametrize('net', ['edsr', 'swinir'])
def test_super_resolution_trains_in_low_precision(net):
    run = Trainer(make(editor(net, 3)), LocalAmpOptimWrapper, loss_scale=dict(SCALE), dtype='bfloat16')
    run.step(pairs())
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}
    assert all(grad.isfinite().all() for grad in run.gradients.values())
