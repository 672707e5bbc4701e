"""K = 1 is back-propagation, to the bit."""

import pytest
import torch
from mmengine.optim import OptimWrapper

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import Trainer, assert_equal

STEPS = 2


def bp_states(backbone, optimizer, **options):
    """Weights after every step of the plain upstream model with the plain upstream wrapper."""
    model = build(retinanet(None, backbone)).train()
    wrapper = OptimWrapper(optimizer=optimizer(model.parameters()), **options)
    for step in range(STEPS):
        logs = model.train_step(batch(first=step), wrapper)
        yield {name: value.clone() for name, value in model.state_dict().items()}, logs


@pytest.mark.parametrize(
    ('norm_eval', 'options', 'optimizer'),
    [
        (True, {}, torch.optim.SGD),
        (False, {}, torch.optim.AdamW),
        (False, dict(clip_grad=dict(max_norm=1.0)), torch.optim.SGD),
        (True, dict(accumulative_counts=2), torch.optim.AdamW),
        (False, dict(accumulative_counts=2), torch.optim.SGD),
    ],
    ids=['plain', 'AdamW, norms', 'clip, norms', 'AdamW, accumulation', 'accumulation, norms'],
)
def test_one_module_is_back_propagation_bit_for_bit(norm_eval, options, optimizer):
    lr = 0.01 if optimizer is torch.optim.SGD else 1e-3
    backbone = dict(norm_eval=norm_eval)
    momentum = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    run = Trainer(build(retinanet(1, backbone)), optimizer=optimizer, lr=lr, **options)
    theirs = bp_states(backbone, lambda params: optimizer(params, lr=lr, **momentum), **options)
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    for step, (state, logs) in enumerate(theirs):
        assert run.step(batch(first=step)) == logs
        assert_equal(dict(run.model.state_dict()), state)
    assert not torch.equal(state['backbone.conv1.weight'], start['backbone.conv1.weight'])


@pytest.mark.parametrize('num_modules', [2, 4, 9])
def test_the_first_main_loss_is_that_of_the_plain_model(num_modules):
    wrapper = OptimWrapper(optimizer=torch.optim.SGD((plain := build(retinanet(None)).train()).parameters(), lr=0.01))
    run = Trainer(copy_weights(plain, build(retinanet(num_modules), seed=1)))
    assert run.step() == plain.train_step(batch(), wrapper)


def copy_weights(source, target):
    target.load_state_dict(source.state_dict(), strict=False)
    return target
