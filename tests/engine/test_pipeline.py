"""Modules spread over two processes end, to the bit, where one process ends."""

import pytest
import torch
from mmengine.dataset import DefaultSampler

from man_mm.engine.pipeline.checks import refuse_dependence, refuse_split_data
from man_mm.engine.pipeline.spread import check_split, module_flops, spread

from ..helpers import pipeline_ranks
from ..helpers.classification import classifier, make
from ..helpers.detection import batch, build, retinanet
from ..helpers.pipeline_ranks import DETECTORS, HUB, RULES, batches, classes, config, detector, images, result
from ..helpers.processes import call_ranks, free_port
from ..helpers.runs import make_coco, runner
from ..helpers.training import Trainer, assert_equal, fake_runner, trainer

pytestmark = pytest.mark.cpu_only('two processes need two GPUs')


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    """The folder of all runs, and the results of both processes."""
    folder = tmp_path_factory.mktemp('pipeline')
    data_root = make_coco(folder / 'data')
    runner(config(data_root, folder / 'sequential', 2)).train()
    checkpoint = str(folder / 'sequential/epoch_1.pth')
    call_ranks(pipeline_ranks.run, free_port(), str(folder), data_root, checkpoint, num=pipeline_ranks.WORLD)
    return folder, [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(pipeline_ranks.WORLD)]


@pytest.fixture(scope='module')
def ranks(ended):
    return ended[1]


def assert_same_end(ranks, name, run, data):
    """Weights and buffers in both processes, and the optimizer's state in the first one."""
    run.step(*batches(data))
    weights, state = result(run)
    for rank in ranks:
        assert_equal(rank[name][0], weights)
    assert_same_state(ranks[0][name][1], state)


def assert_same_state(ours, theirs):
    assert ours['param_groups'] == theirs['param_groups']
    assert ours['state'].keys() == theirs['state'].keys()
    for index, state in theirs['state'].items():
        assert_equal(ours['state'][index], state)


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_end_where_one_process_ends(ranks, name):
    model, options, _ = detector(**DETECTORS[name])
    assert_same_end(ranks, name, Trainer(model, **options), images)


@pytest.mark.parametrize('name', RULES)
def test_every_rule_ends_where_one_process_ends(ranks, name):
    assert_same_end(ranks, name, Trainer(make(classifier(name))), classes)


def test_a_process_runs_ahead_of_the_next_one_as_far_as_in_flight_says(ranks):
    for rank in ranks:
        assert_equal(rank['ahead'][0][0], ranks[0]['split by hand'][0])
    assert ranks[0]['ahead'][1][:2] == [1, 2] and max(ranks[0]['ahead'][1]) == 2


def test_a_process_that_computes_is_a_world_of_its_own(ranks):
    for number, rank in enumerate(ranks):
        assert rank['alone'] == [(1, 1.0 + number), (2, 3.0)]


@pytest.mark.parametrize(('folder', 'epoch'), [('run', 1), ('resumed', 2)])
def test_a_checkpoint_is_that_of_one_process_also_after_resuming_one(ended, folder, epoch):
    ours, theirs = (
        torch.load(ended[0] / part / f'epoch_{epoch}.pth', weights_only=False) for part in (folder, 'sequential')
    )
    assert ours.keys() == theirs.keys()
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(ours[key], theirs[key])
    assert_same_state(ours['optimizer'], theirs['optimizer'])
    assert ours['param_schedulers'] == theirs['param_schedulers']


def test_losses_of_all_processes_reach_the_log_of_the_first_one(ended):
    logs = [
        torch.load(ended[0] / part / 'epoch_2.pth', weights_only=False)['message_hub']['log_scalars']
        for part in ('resumed', 'sequential')
    ]
    for name in HUB:
        ours, theirs = (log[name].data[0].tolist() for log in logs)
        assert ours == theirs and len(ours) == 6, name
    assert logs[1].keys() <= logs[0].keys()


def test_only_the_first_process_reads_data(ranks):
    assert [rank['read'] for rank in ranks] == [[True] * 3, [False] * 3]


def test_a_sampler_that_parts_the_data_is_refused(ranks):
    for rank in ranks:
        assert 'train_dataloader.sampler.type=DefaultSampler' in rank['sampler']
        assert "type='man_mm.WholeSampler'" in rank['sampler']


def test_the_pipeline_names_the_hook_that_it_needs(ranks):
    assert "custom_hooks lacks dict(type='man_mm.PipelineHook')" in ranks[0]['no hook']


def test_scaling_the_learning_rate_by_processes_is_refused():
    loader = fake_runner(sampler=DefaultSampler(range(4)))
    with pytest.raises(ValueError, match=r'auto_scale_lr\.enable=True'):
        refuse_split_data(fake_runner(train_dataloader=loader, auto_scale_lr=dict(enable=True)))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({}, "auxiliary.head, auxiliary.neck or auxiliary.tail is 'shared'"),
        (dict(auxiliary=dict(head='private', neck='shared')), 'e.g. neck'),
        (dict(auxiliary=dict(head='private'), clip_grad=dict(max_norm=1)), 'clip_grad.per_module=True'),
        (dict(auxiliary=dict(head='private', follow='ema')), 'auxiliary.follow lets units of auxiliaries follow'),
    ],
)
def test_what_makes_processes_wait_for_each_other_is_refused(options, words):
    run = trainer(**options)
    with pytest.raises(ValueError, match=words):
        refuse_dependence(run.model, run.model.backbone, run.optim_wrapper)


@pytest.mark.parametrize(
    ('num_modules', 'processes', 'split', 'options', 'words'),
    [
        (1, 2, 'flops', {}, 'num_modules=1 is back-propagation'),
        (4, 5, 'flops', {}, 'num_modules=4 modules are too few for 5 processes'),
        (4, 2, 'time', {}, "model_wrapper_cfg.split='time' must be 'flops', or a list of 2 numbers"),
        (2, 2, [True, 1], {}, "model_wrapper_cfg.split=[True, 1] must be 'flops', or a list of 2 numbers"),
        (4, 2, [1, 2], {}, 'with the sum num_modules=4'),
        (4, 2, [4, 0], {}, 'with the sum num_modules=4'),
        (9, 9, 'flops', dict(share='stage'), "backbone.share='stage' leaves"),
        (9, 2, [2, 7], dict(share='stage'), 'parts modules that share an auxiliary'),
    ],
)
def test_modules_that_cannot_be_spread_like_that_are_refused(num_modules, processes, split, options, words):
    auxiliary = dict(head='private', cut_stage=False)
    backbone = build(retinanet(num_modules, auxiliary=auxiliary, **options)).backbone
    with pytest.raises(ValueError, match=words.replace('[', r'\[')):
        check_split(backbone, split, processes)


def test_modules_are_spread_by_what_they_cost():
    run = trainer(auxiliary=dict(head='private'))
    model = run.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = model.data_preprocessor(batch(), True)
    costs = module_flops(model, model.backbone, data)
    assert_equal(dict(model.state_dict()), before)
    assert model.training and model.backbone.step is None
    assert len(costs) == 4 and min(costs) > 0
    assert spread(model.backbone, 'flops', 2, [9, 1, 1, 1]) == (0, 1, 4)
    assert spread(model.backbone, 'flops', 3, [1, 1, 1, 9]) in [(0, 1, 3, 4), (0, 2, 3, 4)]
    assert spread(model.backbone, [3, 1], 2, []) == (0, 3, 4)
