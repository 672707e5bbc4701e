"""ActivationCheckpointHook saves memory, and changes nothing else."""

from functools import cache

import pytest
import torch
from torch import nn

from man_mm.engine import ActivationCheckpointHook

from ..helpers.checkpointed import BP, LEVELS, PRIVATE, Run, head_calls, patched
from ..helpers.detection import retinanet
from ..helpers.device import DEVICE
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import assert_equal

HEADS = 'backbone.auxiliaries.*.heads.bbox_head'
EVERYWHERE = [*BP, 'backbone.auxiliaries.*.neck', 'backbone.backbone.layer?.?']


@pytest.fixture
def calls(monkeypatch):
    return head_calls(monkeypatch)


@pytest.mark.parametrize(
    ('functions', 'options'),
    [
        (BP, dict()),
        (EVERYWHERE, dict(num_modules=3, auxiliary=PRIVATE)),
        (EVERYWHERE, dict(num_modules=3, auxiliary=PRIVATE, first=True)),
        (BP, dict(num_modules=3, auxiliary=dict(neck='shared', shared_head_grad='last'))),
        (EVERYWHERE, dict(num_modules=4, auxiliary=dict(shared_head_grad='mean'), eager_step=True)),
        (['*'], dict()),
    ],
    ids=str,
)
def test_losses_and_gradients_are_the_same_to_the_bit(functions, options, calls):
    plain, ours = Run(**options), Run(functions, **options)
    for i in range(2):
        expected = plain.step(first=i)
        before = len(calls)
        logs = ours.step(first=i)
        assert_equal(logs, expected)
        assert len(calls) - before == 2 * LEVELS * (options.get('num_modules') or 1)
    assert_equal(ours.gradients, plain.gradients)
    assert_equal(dict(ours.model.state_dict()), dict(plain.model.state_dict()))


@pytest.mark.usefixtures('mixed_precision')
@pytest.mark.parametrize('num_modules', [None, 4])
def test_gradients_under_autocast_are_the_same_to_the_bit(num_modules):
    runs = [Run(functions, num_modules) for functions in (None, BP)]
    for run in runs:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            losses = run.losses()
        run.update(losses)
    assert_equal(runs[1].gradients, runs[0].gradients)


def test_local_losses_recompute_inside_the_forward_and_the_main_loss_behind_it(calls):
    run = Run(['bbox_head.forward_single'], 2)
    run.step()
    assert [is_patched for _, is_patched in calls] == [True] * 3 * LEVELS + [False] * LEVELS


def test_nothing_is_recomputed_twice_where_a_function_calls_another(calls):
    plain, run = Run(), Run(['bbox_head', 'bbox_head.forward_single', 'bbox_head.*_convs.*'])
    plain.step()
    run.step()
    assert len(calls) == LEVELS + 2 * LEVELS
    assert_equal(run.gradients, plain.gradients)


@cache
def memory_of_plain(num_modules):
    return Run(None, num_modules, heavy=True).memory()


@pytest.mark.cpu_only('the meter of a GPU is its allocator, this one counts tensors')
@pytest.mark.parametrize(
    ('num_modules', 'functions', 'kept_fraction', 'peak_fraction'),
    [
        (None, BP[:1], 0.99, 1),
        (None, BP[2:], 0.99, 0.99),
        pytest.param(None, BP[1:2], 0.7, 0.985, marks=pytest.mark.long),
        *(pytest.param(4, *rest, marks=pytest.mark.long) for rest in ((BP[:1], 0.99, 1), (BP[2:], 0.99, 0.99))),
        (4, BP[1:2], 0.7, 0.985),
        (4, [*BP, '*layer?.?'], 0.5, 0.9),
    ],
)
def test_less_is_kept_for_backward_and_the_peak_falls(num_modules, functions, kept_fraction, peak_fraction):
    plain, ours = memory_of_plain(num_modules), Run(functions, num_modules, heavy=True).memory()
    assert ours[0] < kept_fraction * plain[0] and ours[1] <= peak_fraction * plain[1]


def test_random_layers_draw_the_same_numbers_again():
    runs = [Run(functions) for functions in (None, ['neck', 'bbox_head.forward_single'])]
    for run in runs:
        run.model.bbox_head.cls_convs.append(nn.Dropout(0.5))
        torch.manual_seed(7)
        run.step()
    assert_equal(runs[1].gradients, runs[0].gradients)


def test_running_statistics_see_each_batch_twice():
    seen = []
    for functions in (None, ['backbone.layer1.*']):
        run = Run(functions, backbone=dict(norm_eval=False))
        run.step()
        seen.append(int(run.model.backbone.layer1[0].bn1.num_batches_tracked))
    assert seen == [1, 2]


class Sine(nn.Module):
    def forward(self, inputs, **options):
        return inputs[0].sin() * options['by'][0]


class Overwriter(nn.Module):
    """Changes what it gave to a part of itself; `x * 2` keeps nothing for its own backward."""

    def __init__(self):
        super().__init__()
        self.part = self.alias = Sine()

    def forward(self, x, by):
        y = x * 2
        result = self.part([y], by={0: by})
        y.detach().zero_()
        return result


def test_an_input_in_a_list_changed_in_place_is_an_error_and_not_another_gradient():
    model = Overwriter()
    ActivationCheckpointHook(['alias']).bind(model)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        model(torch.ones(3, requires_grad=True), torch.ones(3)).sum().backward()


def test_a_run_with_bank_and_average_ends_in_the_same_weights(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=4)
    functions = ['neck', 'bbox_head.forward_single', f'{HEADS}.forward_single', f'{HEADS}.loss']
    hook = dict(type='man_mm.ActivationCheckpointHook', functions=functions)
    ema = dict(type='EMAHook', momentum=0.1)
    weights = []
    for name, hooks in (('plain', [ema]), ('ours', [hook, ema])):
        run = runner(run_config(root, tmp_path / name, retinanet(4, auxiliary=PRIVATE), hooks=hooks, epochs=1))
        run.train()
        assert run.iter == 2 and not patched(run.model)
        weights.append(torch.load(tmp_path / name / 'epoch_1.pth'))
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(weights[1][key], weights[0][key])
