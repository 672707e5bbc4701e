"""Two processes make the gradients of one with the double batch; wrappers that would not are refused."""

from functools import cache

import pytest
import torch

from ..helpers import ddp_ranks
from ..helpers.classification import batch as labelled
from ..helpers.ddp_ranks import after_steps, detector
from ..helpers.detection import batch
from ..helpers.processes import call_ranks, free_port
from ..helpers.training import assert_equal

pytestmark = pytest.mark.cpu_only('two processes need two GPUs')

CLOSE = dict(rtol=1e-4, atol=1e-6)
every_way = pytest.mark.parametrize('way', ddp_ranks.WRAPPERS)


def ways_of(*names):
    """Scenarios, each with the ways of reducing that take it."""
    pairs = [(way, name) for way in ddp_ranks.WRAPPERS for name in names if ddp_ranks.takes(name, way)]
    return pytest.mark.parametrize(('way', 'name'), pairs)


@pytest.fixture(scope='session')
def ranks(tmp_path_factory):
    """Results of all scenarios, from both ranks."""
    folder = tmp_path_factory.mktemp('ddp')
    call_ranks(ddp_ranks.run, free_port(), str(folder), num=ddp_ranks.WORLD)
    return [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(ddp_ranks.WORLD)]


def mean(*gradients):
    return {name: sum(g[name] for g in gradients) / len(gradients) for name in gradients[0]}


@cache
def gradients_of_one_process(name):
    run = detector(ddp=None, **ddp_ranks.GRADIENTS[name])
    run.step(batch(2))
    return run.gradients


@cache
def gradients_of_a_rule(name):
    run = ddp_ranks.rule(name, ddp=None)
    data = [labelled(2, seed=rank) for rank in range(ddp_ranks.WORLD)]
    run.step({key: [*data[0][key], *data[1][key]] for key in data[0]})
    return run.gradients


@cache
def gradients_of_the_large_batch():
    run = detector(ddp=None)
    run.step(batch(4))
    return run.gradients


@cache
def mixed_gradients_of_one_process():
    return ddp_ranks.mixed_gradients(None, batch(2))


@cache
def weights_of_one_process(name):
    return after_steps(detector(ddp=None, **{**ddp_ranks.STEPS, **ddp_ranks.EAGER}[name]), 0, 2)


@ways_of(*ddp_ranks.GRADIENTS)
def test_gradients_are_those_of_one_process_with_the_double_batch(ranks, way, name):
    for result in ranks:
        assert_equal(result[way][name], gradients_of_one_process(name), **CLOSE)


@ways_of(*ddp_ranks.RULES)
def test_gradients_of_every_rule_are_those_of_one_process_with_the_double_batch(ranks, way, name):
    for result in ranks:
        assert_equal(result[way][name], gradients_of_a_rule(name), **CLOSE)


@every_way
def test_accumulation_over_two_processes_equals_the_large_batch(ranks, way):
    for result in ranks:
        assert_equal(result[way]['accumulated'], gradients_of_the_large_batch(), **CLOSE)


@ways_of('sizes')
def test_images_of_unequal_sizes_on_the_ranks_give_the_mean_of_their_gradients(ranks, way, name):
    gradients = []
    for rank, size in enumerate(ddp_ranks.SIZES):
        run = detector(ddp=None)
        run.step(batch(1, first=rank, size=size))
        gradients.append(run.gradients)
    for result in ranks:
        assert_equal(result[way][name], mean(*gradients), **CLOSE)


@ways_of('synchronised norms')
def test_norms_over_all_processes_give_the_gradients_of_one_process_with_the_double_batch(ranks, way, name):
    run = ddp_ranks.synchronised(ddp=None)
    run.step(batch(2))
    for result in ranks:
        assert_equal(result[way][name], run.gradients, rtol=1e-3, atol=1e-6)


@ways_of(*ddp_ranks.STEPS)
def test_weights_stay_equal_over_steps(ranks, way, name):
    assert_equal(ranks[0][way][name], ranks[1][way][name])
    assert_equal(ranks[0][way][name], weights_of_one_process(name), **CLOSE)


@pytest.mark.parametrize('name', ddp_ranks.EAGER)
def test_eager_steps_by_module_end_in_the_weights_of_one_process(ranks, name):
    assert_equal(ranks[0][name], ranks[1][name])
    assert_equal(ranks[0][name], weights_of_one_process(name), **CLOSE)


def test_eager_steps_by_module_hold_the_gradients_of_one_module_at_a_time(ranks):
    ordinary, eager = ranks[0]['alive']
    own = [after - before for before, after in zip([0, *ordinary], ordinary, strict=False)]  # grown by each module
    assert len(own) == 3 and eager == own


@every_way
def test_mixed_precision_gives_the_gradients_of_one_process_to_its_rounding(ranks, way):
    expected = mixed_gradients_of_one_process()
    assert_equal(ranks[0][way]['mixed'], ranks[1][way]['mixed'])
    for name, gradient in ranks[0][way]['mixed'].items():
        assert (gradient - expected[name]).norm() <= 0.03 * expected[name].norm() + 1e-6, name


@pytest.mark.parametrize('name', ddp_ranks.REFUSED)
def test_wrappers_that_leave_local_gradients_apart_are_refused(ranks, name):
    for result in ranks:
        assert 'find_unused_parameters must be True, and static_graph must be off' in result[f'refused {name}']


def test_without_the_refusal_gradients_would_differ_between_processes(ranks):
    name = 'backbone.backbone.conv1.weight'
    assert not torch.equal(ranks[0]['unchecked'][name], ranks[1]['unchecked'][name])


def test_reducing_by_module_refuses_a_static_graph(ranks):
    assert 'model_wrapper_cfg.static_graph must be off' in ranks[0]['refused static_graph by module']


def test_eager_step_names_the_wrapper_that_it_needs(ranks):
    message = ranks[0]['eager at the end']
    assert 'eager_step=True does not go with MMDistributedDataParallel' in message
    assert "model_wrapper_cfg=dict(type='man_mm.LocalDistributedDataParallel')" in message


def test_a_plain_optim_wrapper_is_refused_under_ddp(ranks):
    assert "optim_wrapper.type is OptimWrapper, but must be 'man_mm.LocalOptimWrapper'" in ranks[0]['no wrapper']
