"""Mixed precision: one scaler for local and main losses, unscaled once, and an overflow skips one step."""

import copy
import logging
import weakref
from contextlib import contextmanager

import pytest
import torch
from mmengine.logging import MMLogger
from torch.utils._python_dispatch import TorchDispatchMode

from man_mm.engine import LocalAmpOptimWrapper, LocalOptimWrapper
from man_mm.versions import is_autocast_on

from ..helpers import classification, detection, restoration
from ..helpers.device import DEVICE
from ..helpers.training import SpyWrapper, Trainer, assert_equal, gradients, trainer

pytestmark = pytest.mark.usefixtures('mixed_precision')
CLOSE = dict(rtol=1e-5, atol=1e-8)  # the scale is a power of two
SCALE = dict(init_scale=2.0**10, growth_interval=1000)
UNSCALED = dict(enabled=False)
CLIP = dict(clip_grad=dict(max_norm=0.5))
PRECISIONS = {'float16': SCALE, 'bfloat16': UNSCALED}
SLIM = dict(type='man_mm.SlimSLM', channels=8)
PAIRS = dict(labels=[0, 0, 1, 1, 2, 2, 3, 3])
MODELS = {
    'detection, man': lambda: (detection.build(detection.retinanet(4)), detection.batch()),
    'detection, lean': lambda: (detection.build(detection.retinanet(4, auxiliary=SLIM)), detection.batch()),
    'detection, dgl': lambda: (
        detection.build(detection.retinanet(4, auxiliary={**SLIM, 'type': 'man_mm.DGLPyramid'})),
        detection.batch(),
    ),
    **{
        f'classification, {rule}': lambda rule=rule: (
            classification.make(classification.classifier(rule)),
            classification.batch(8, **PAIRS),
        )
        for rule in classification.RULES
    },
    **{
        f'super-resolution, {net}': lambda net=net: (restoration.make(restoration.editor(net, 3)), restoration.batch())
        for net in restoration.NETS
    },
}


class UnscaledWrapper(LocalOptimWrapper):
    """The reference: the same low precision, and no scaler."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(DEVICE.type, torch.bfloat16):
            yield


def amp_trainer(num_modules=4, **options):
    return trainer(num_modules, wrapper=LocalAmpOptimWrapper, loss_scale=dict(SCALE), dtype='bfloat16', **options)


@pytest.mark.parametrize(('num_modules', 'options'), [(1, CLIP), (2, CLIP), (4, {}), (4, CLIP)], ids=str)
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
    backbone.conv1.weight.register_hook(lambda grad: seen.add(is_autocast_on(DEVICE.type)))
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


def overflow(run, module):
    """Let a module's local loss overflow until the handle is removed."""
    neck = run.model.backbone.auxiliaries[module].neck
    return neck.register_forward_hook(lambda module, args, out: tuple(level * float('inf') for level in out))


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(accumulative_counts=2),
        dict(clip_grad=dict(max_norm=0.5)),
        dict(clip_grad=dict(max_norm=0.5, per_module=True)),
    ],
    ids=['plain', 'accumulation', 'clip', 'clip per module'],
)
def test_an_overflow_skips_one_step_and_the_log_names_the_module(log, options):
    run = amp_trainer(**options)
    weights = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    rest = options.get('accumulative_counts', 1) - 1
    handle = overflow(run, 2)
    run.step()
    handle.remove()
    for _ in range(rest):  # sound, but added to what overflowed
        run.step()
    assert_equal(dict(run.model.named_parameters()), weights)
    assert not run.optimizer.state and all(p.grad is None for p in run.model.parameters())
    scaler = run.optim_wrapper.loss_scaler
    assert scaler.get_scale() == SCALE['init_scale'] / 2  # once, not once per module
    messages = [record.getMessage() for record in log.records if 'scaler skips' in record.getMessage()]
    assert len(messages) == 1 and 'module 2 (' in messages[0]
    for _ in range(rest + 1):
        run.step()
    assert scaler.get_scale() == SCALE['init_scale'] / 2
    assert not torch.equal(run.model.bbox_head.retina_cls.weight, weights['bbox_head.retina_cls.weight'])


def test_the_scaler_is_saved_and_loaded():
    first, second = amp_trainer(), amp_trainer()
    first.step()
    first.optim_wrapper.loss_scaler.update(8.0)
    second.optim_wrapper.load_state_dict(first.optim_wrapper.state_dict())
    assert second.optim_wrapper.loss_scaler.state_dict() == first.optim_wrapper.loss_scaler.state_dict()


def test_eager_step_is_refused_with_a_loss_scaler_which_can_be_turned_off():
    with pytest.raises(
        ValueError, match=r'eager_step=True does not go with a loss scaler.*loss_scale=dict\(enabled=False'
    ):
        amp_trainer(eager_step=True)


def bfloat16_trainer(wrapper=LocalAmpOptimWrapper, **options):
    return trainer(4, wrapper=wrapper, loss_scale=dict(UNSCALED), dtype='bfloat16', **options)


def test_without_a_scaler_gradients_are_those_of_low_precision_alone():
    run = bfloat16_trainer()
    run.step()
    assert_equal(run.gradients, gradients(num_modules=4, wrapper=UnscaledWrapper))


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(auxiliary=dict(head='private'), clip_grad=dict(max_norm=0.05, per_module=True)),
        dict(model_options=dict(share='stage'), auxiliary=dict(neck='shared', cut_stage=False)),
        dict(auxiliary=SLIM, backbone=dict(with_cp=True)),
    ],
    ids=['plain', 'private, clipped', 'shared', 'lean, recomputed'],
)
def test_eager_steps_in_bfloat16_end_in_the_weights_of_ordinary_steps(options):
    runs = [bfloat16_trainer(eager_step=eager, **copy.deepcopy(options)) for eager in (False, True)]
    for i in range(2):  # the second one has momentum
        logs = [run.step(detection.batch(first=i)) for run in runs]
        assert logs[0] == logs[1]
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_without_a_scaler_a_local_loss_that_is_infinite_stops_training():
    run = bfloat16_trainer(eager_step=True)
    overflow(run, 0)
    with pytest.raises(FloatingPointError, match=r'local loss is infinite or NaN: .*cls of module 0'):
        run.step()


class SpyAmpWrapper(SpyWrapper, LocalAmpOptimWrapper):
    """Tells of every backward in mixed precision."""


class Copies(TorchDispatchMode):
    """Counts the half-precision copies of parameters that are made, and those that are alive."""

    def __init__(self):
        super().__init__()
        self.made = self.alive = 0

    def _release(self):
        self.alive -= 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], torch.nn.Parameter):
            self.made, self.alive = self.made + 1, self.alive + 1
            weakref.finalize(result.untyped_storage(), self._release)
        return result


@pytest.mark.parametrize('with_cp', [False, True], ids=['kept', 'recomputed'])
def test_copies_of_weights_go_with_their_module_and_are_made_anew_for_recomputation(with_cp):
    copies, before, after = Copies(), [], []
    run = bfloat16_trainer(
        SpyAmpWrapper,
        backbone=dict(with_cp=with_cp),
        before=lambda loss, module: before.append((copies.made, copies.alive)),
        after=lambda module: after.append((copies.made, copies.alive)),
    )
    with copies:
        run.step()
    assert len(after) == 4 and all(alive > 0 for _, alive in before)
    assert [alive for _, alive in after] == [0] * 4
    in_backward = [end - begin for (begin, _), (end, _) in zip(before, after, strict=True)]
    assert all(made > 0 for made in in_backward) if with_cp else in_backward == [0] * 4


BFLOAT16 = ('detection, lean', 'classification, infopro', 'super-resolution, edsr')
"""A rule of each task in the other precision too."""


@pytest.mark.parametrize(
    ('name', 'dtype'), [*((name, 'float16') for name in MODELS), *((name, 'bfloat16') for name in BFLOAT16)]
)
def test_every_rule_and_task_gets_the_gradients_of_full_precision_to_rounding(name, dtype):
    model, data = MODELS[name]()
    full = Trainer(copy.deepcopy(model))
    half = Trainer(model, LocalAmpOptimWrapper, dtype=dtype, loss_scale=dict(PRECISIONS[dtype]))
    for run in (full, half):
        run.step(copy.deepcopy(data))
    assert half.gradients.keys() == full.gradients.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for key, value in half.optim_wrapper.local_losses.items():
        assert value.item() == pytest.approx(full.optim_wrapper.local_losses[key].item(), rel=0.02, abs=0.01), key
    ours, theirs = (torch.cat([grad.flatten() for grad in run.gradients.values()]) for run in (half, full))
    assert (ours - theirs).norm() < (0.1 if dtype == 'float16' else 0.25) * theirs.norm()
