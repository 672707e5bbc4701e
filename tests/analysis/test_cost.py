"""What a step costs: bytes by kind and module, operations by torch's formulas."""

import copy
import gc
import itertools
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from man_mm.analysis import step as step_module
from man_mm.analysis.cost import predict_seconds, step_cost, step_seconds
from man_mm.analysis.memory import KINDS
from man_mm.analysis.step import TrainStep
from man_mm.local.step import _listeners

from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier
from ..helpers.detection import batch
from ..helpers.detection import small_retinanet as retinanet
from ..helpers.steps import step_config
from ..helpers.training import local_parameters, poison

FLOAT = 4  # bytes
PRIVATE = dict(head='private')


def step_of(num_modules=7, auxiliary=PRIVATE, optimizer=None, hooks=(), wrapper=None, **options):
    """A step of the tiny RetinaNet. K = 7 is a module for every unit."""
    cfg = retinanet(num_modules, auxiliary=auxiliary, **options)
    return TrainStep(step_config(cfg, optimizer=optimizer, hooks=hooks, **(wrapper or {})))


COSTS = {}
"""Of every step that `cost_of` measured."""


def cost_of(num_modules=7, size=64, **options):
    """Measured once: two runs cost the same, see below."""
    key = f'{num_modules} {size} {options}'
    if key not in COSTS:
        COSTS[key] = step_cost(step_of(num_modules, **options), batch(size=size))
    return COSTS[key]


def single_calls(step):
    """The step, of which every call is measured alone."""
    step.__class__ = type('OneCall', (type(step),), dict(period=1, warm_up=lambda *_: None))
    return step


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_parts_are_what_one_counts_by_hand():
    step = step_of(4)
    cost = step_cost(step, batch())
    assert [phase.name for phase in cost.phases if phase.peak_bytes == cost.peak_bytes] == ['main']  # in the update
    own = step.model.backbone.auxiliaries
    auxiliary = bytes_of([*own.parameters(), *own.buffers()])
    assert cost.split['auxiliary'] == auxiliary
    assert cost.split['weights'] == bytes_of([*step.model.parameters(), *step.model.buffers()]) - auxiliary
    trained = bytes_of(p for p in step.model.parameters() if p.requires_grad)
    assert cost.split['gradients'] == cost.split['optimizer'] == trained


def test_steps_that_a_loss_scaler_skips_warm_nothing_up(mixed_precision):
    step = step_of(4, wrapper=dict(type='man_mm.LocalAmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic'))
    overflows = [poison(step.model.neck)]
    step.model.register_forward_hook(lambda *_: overflows.pop().remove() if overflows else None)  # the first step alone
    cost = step_cost(step, batch())
    assert step.optim_wrapper.loss_scaler.get_scale() == 2.0**15  # halved once
    assert cost.split['optimizer'] == bytes_of(p for p in step.model.parameters() if p.requires_grad)


def test_a_loss_scaler_that_skips_every_step_is_named(mixed_precision, monkeypatch):
    monkeypatch.setattr(step_module, 'MOST_SKIPPED', 3)
    step = step_of(4, wrapper=dict(type='man_mm.LocalAmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic'))
    poison(step.model.backbone.auxiliaries[0].neck)
    with pytest.raises(ValueError, match=r'optim_wrapper.loss_scale: the scaler has skipped 3 steps in a row'):
        step.warm_up(batch())


def test_adam_keeps_two_moments_and_a_counter():
    step = step_of(2, optimizer=dict(type='Adam', lr=1e-3))
    trained = [p for p in step.model.parameters() if p.requires_grad]
    assert step_cost(step, batch()).split['optimizer'] == 2 * bytes_of(trained) + FLOAT * len(trained)


def test_the_bank_holds_the_stages_that_ended():
    phases = cost_of().phases
    images, size = 2, 64
    layer1 = FLOAT  # one number: no neck reads this stage
    layer2 = images * 16 * (size // 8) ** 2 * FLOAT
    stages = [0] * 3 + [layer1] * 2 + [layer1 + layer2]
    assert [phase.split.get('bank', 0) for phase in phases[:-1]] == stages


def test_back_propagation_banks_nothing_and_has_one_phase():
    for num_modules in (None, 1):
        cost = cost_of(num_modules)
        assert [phase.name for phase in cost.phases] == ['main']
        assert cost.split['auxiliary'] == cost.split['bank'] == 0


@pytest.mark.parametrize(('num_modules', 'options'), [(2, {}), (7, {}), (4, dict(share='stage'))], ids=str)
def test_every_module_is_a_phase_in_order(num_modules, options):
    phases = cost_of(num_modules, **options).phases
    assert [phase.name for phase in phases] == [*map(str, range(num_modules - 1)), 'main']
    starts = [phase.start for phase in phases]
    assert starts[0] == 0 and sorted(set(starts)) == starts


def test_a_first_module_of_frozen_units_too_is_a_phase():
    cost = step_cost(TrainStep(step_config(retinanet(3, dict(frozen_stages=1)))), batch())
    assert [phase.name for phase in cost.phases] == ['0', '1', 'main']


def test_gradients_are_those_of_the_modules_before_and_of_a_part_of_the_own_ones():
    step = step_of(5)
    before = 0
    for module, phase in enumerate(step_cost(step, batch(size=128)).phases[:-1]):
        own = bytes_of(step.model.get_parameter(name) for name in local_parameters(step.model, module))
        assert before <= phase.split.get('gradients', 0) <= before + own
        before += own


def test_an_eager_step_leaves_no_gradients_of_the_modules_before():
    step = step_of(5, wrapper=dict(eager_step=True))
    for module, phase in enumerate(step_cost(step, batch(size=128)).phases[:-1]):
        own = bytes_of(step.model.get_parameter(name) for name in local_parameters(step.model, module))
        assert phase.split.get('gradients', 0) <= own


@pytest.mark.parametrize('num_modules', [4, pytest.param(7, marks=pytest.mark.long)])
def test_the_activations_of_every_module_stay_below_those_of_back_propagation(num_modules):
    whole = cost_of(None, size=128).split['activations']
    cost = cost_of(num_modules, size=128)
    assert all(phase.split['activations'] < whole for phase in cost.phases)


@pytest.mark.parametrize('num_modules', [4, pytest.param(7, marks=pytest.mark.long)])
def test_every_module_makes_a_hump(num_modules):
    cost = cost_of(num_modules, size=128, wrapper=dict(eager_step=True))  # else gradients pile up
    held = cost.timeline[0]
    for phase, after in itertools.pairwise(cost.phases):
        assert cost.timeline[after.start - 1] - held < 0.6 * (phase.peak_bytes - held)


def test_splits_sum_to_peaks():
    for options in ({}, dict(wrapper=dict(accumulative_counts=2))):
        cost = cost_of(4, **options)
        assert list(cost.split) == list(KINDS)
        assert sum(cost.split.values()) == cost.peak_bytes == max(phase.peak_bytes for phase in cost.phases)
        assert all(sum(phase.split.values()) == phase.peak_bytes for phase in cost.phases)
        assert cost.peak_bytes == max(cost.timeline)


def test_two_runs_cost_the_same():
    first, second = (step_cost(step_of(2), batch()) for _ in range(2))
    assert first == second and first.flops > 0


def test_of_an_accumulation_the_part_that_finds_gradients_and_steps_counts():
    once, twice = cost_of(4), cost_of(4, wrapper=dict(accumulative_counts=2))
    assert twice.phases[0].split['gradients'] >= twice.split['optimizer'] > once.phases[0].split['gradients']
    assert twice.flops == once.flops
    assert twice.split['optimizer'] == once.split['optimizer']


class Convolutions(nn.Module):
    """Two convolutions of stride 1 and a linear layer, on 2 images of 3 x 8 x 8."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.last = nn.Linear(6, 5)

    def forward(self, x):
        return self.last(self.second(self.first(x)).mean((2, 3)))


def step_like(model, call):
    """What `step_cost` asks of a step."""

    class Step(SimpleNamespace):
        def __call__(self, data):
            call(model, data)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Step(
        model=model, optimizer=optimizer, device='cpu', period=1, local_backbone=None, warm_up=lambda data: None
    )


def test_operations_of_a_net_are_those_of_hand():
    def call(model, data):
        model(data).sum().backward()

    cost = step_cost(step_like(Convolutions(), call), torch.zeros(2, 3, 8, 8))
    pixels = 2 * 8 * 8
    first, second, last = (2 * n for n in (pixels * 4 * 3 * 9, pixels * 6 * 4, 2 * 6 * 5))
    assert cost.flops == 2 * first + 3 * second + 3 * last  # nothing asks for the gradient of the images


def test_what_is_recomputed_counts_again():
    def cost(with_cp):
        cfg = step_config(retinanet(None, dict(with_cp=with_cp)))
        return step_cost(TrainStep(cfg), batch(size=128))

    plain, recomputed = cost(False), cost(True)
    assert plain.flops < recomputed.flops < 4 / 3 * plain.flops  # a second forward of three passes, of blocks alone
    assert recomputed.split['activations'] < plain.split['activations']


def test_progress_says_how_many_operations_were_done_at_every_change():
    cost = cost_of(4)
    assert len(cost.progress) == len(cost.timeline)
    assert list(cost.progress) == sorted(cost.progress)
    assert cost.progress[0] == 0 and cost.progress[-1] == cost.flops
    shares = [cost.progress[phase.start] / cost.flops for phase in cost.phases]
    assert shares == sorted(set(shares))


def test_a_step_is_left_as_it_was_also_by_an_error():
    step = step_of(4)
    data = batch()
    step.warm_up = lambda _: None
    backbone, parameters = step.model.backbone, list(step.model.parameters())
    before = [copy.copy(vars(part)).keys() for part in (backbone, backbone.unrolled, step.optim_wrapper)]

    def failing(*args):
        raise RuntimeError('in the neck')

    for error in (None, 'in the neck'):
        if error:
            step.model.neck.forward = failing
            with pytest.raises(RuntimeError, match=error):
                step_cost(step, data)
        else:
            step_cost(step, data)
        assert [vars(part).keys() for part in (backbone, backbone.unrolled, step.optim_wrapper)] == before
        assert backbone.step is None and not _listeners
        assert not any(p._post_accumulate_grad_hooks for p in parameters)


def test_a_measured_step_can_be_collected():
    step = step_of(4)
    step_cost(step, batch())
    gone = weakref.ref(step.model)
    del step
    gc.collect()
    assert gone() is None


def test_measuring_changes_nothing_of_training():
    steps = [step_of(4) for _ in range(2)]
    step_cost(steps[0], batch())
    for _ in range(2):
        steps[1](batch())
    states = [step.model.state_dict() for step in steps]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_weights_are_drawn_where_a_config_would_load_them():
    cfg = retinanet(4)
    cfg['backbone']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='nowhere.pth')
    step = TrainStep(step_config(cfg))
    assert step.model.backbone.conv1.weight.std() > 0
    assert step.model.bbox_head.init_cfg is not None


def test_building_leaves_the_config_as_it_was():
    cfg = step_config(classifier('man'), 'mmpretrain')
    before = copy.deepcopy(cfg.to_dict())
    TrainStep(cfg)(labelled())
    assert cfg.to_dict() == before


def test_seconds_are_of_every_step_and_round_in_turns():
    calls = []

    def step(name):
        return step_like(nn.Linear(1, 1), lambda model, data: calls.append(name))

    seconds = step_seconds([step('a'), step('b')], None, rounds=3)
    assert calls == ['a', 'b'] * 4  # one round goes first
    assert [len(taken) for taken in seconds] == [3, 3] and min(map(min, seconds)) >= 0


def test_predictions_are_made_in_evaluation_mode():
    steps, data = [step_of(None), step_of(4)], batch()
    del data['data_samples'][0].scale_factor  # as of a training pipeline that resizes nothing
    with torch.no_grad():
        seconds = predict_seconds(steps, data, rounds=2)
    assert [len(taken) for taken in seconds] == [2, 2] and min(map(min, seconds)) > 0
    assert not any(step.model.training for step in steps)
