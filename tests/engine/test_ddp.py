"""Two processes make the gradients of one with the double batch; wrappers that would not are refused."""

import socket

import pytest
import torch
import torch.multiprocessing as mp

from ..models import batch
from ..training import assert_equal, gradients, trainer
from . import ddp_worker

CLOSE = dict(rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='session')
def ranks(tmp_path_factory):
    """Results of all scenarios, from both ranks."""
    folder = tmp_path_factory.mktemp('ddp')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.spawn(ddp_worker.run, args=(port, str(folder)), nprocs=ddp_worker.WORLD)
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(ddp_worker.WORLD)]


@pytest.mark.parametrize('name', ddp_worker.GRADIENTS)
def test_gradients_are_those_of_one_process_with_the_double_batch(ranks, name):
    options = {'num_modules': 4, **ddp_worker.GRADIENTS[name]}
    expected = gradients(batch(2), **options)
    for result in ranks:
        assert_equal(result[name], expected, **CLOSE)


def test_accumulation_over_two_processes_equals_the_large_batch(ranks):
    expected = gradients(batch(4), num_modules=4)
    for result in ranks:
        assert_equal(result['accumulated'], expected, **CLOSE)


@pytest.mark.parametrize(('name', 'options'), [('weights', {}), ('weights of turns', ddp_worker.TURNS)])
def test_weights_stay_equal_over_steps(ranks, name, options):
    run = trainer(4, **options)
    for step in range(3):
        run.step(batch(2, first=2 * step))
    assert_equal(ranks[0][name], ranks[1][name])
    assert_equal(ranks[0][name], dict(run.model.state_dict()), **CLOSE)


@pytest.mark.parametrize('name', ddp_worker.REFUSED)
def test_wrappers_that_leave_local_gradients_apart_are_refused(ranks, name):
    for result in ranks:
        assert 'find_unused_parameters must be True, and static_graph must be off' in result[f'refused {name}']


def test_without_the_refusal_gradients_would_differ_between_processes(ranks):
    name = 'backbone.backbone.conv1.weight'
    assert not torch.equal(ranks[0]['unchecked'][name], ranks[1]['unchecked'][name])


def test_eager_step_is_refused_under_ddp(ranks):
    assert 'eager_step=True does not go with distributed training' in ranks[0]['eager']


def test_a_plain_optim_wrapper_is_refused_under_ddp(ranks):
    assert "optim_wrapper.type is OptimWrapper, but must be 'man_mm.LocalOptimWrapper'" in ranks[0]['no wrapper']
