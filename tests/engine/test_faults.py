"""Faults of one process: memory that runs out, odd memory formats, misspelt keys."""

import copy
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..helpers.detection import batch
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import assert_equal, trainer

MODULE_1 = r'module 1 \(layer1.1 .. layer2.0\)'


def out_of_memory(*_):
    raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')


class Exhausted(torch.autograd.Function):
    """Runs out of memory in backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        out_of_memory()


def in_forward(run):
    run.model.backbone.layer2[0].register_forward_hook(out_of_memory)


def in_local_loss(run):
    run.model.backbone.auxiliaries[1].neck.register_forward_hook(out_of_memory)


def in_backward(run):
    run.model.backbone.layer2[0].register_forward_hook(lambda _, args, out: Exhausted.apply(out))


def in_neck(run):
    run.model.neck.register_forward_hook(out_of_memory)


def in_main_backward(run):
    run.model.neck.register_forward_hook(lambda _, args, out: tuple(Exhausted.apply(level) for level in out))


def in_step(run):
    run.optimizer.register_step_pre_hook(out_of_memory)


@pytest.mark.parametrize(
    ('harm', 'where', 'lever'),
    [
        (in_forward, f'forward of {MODULE_1}', "partition='memory'"),
        (in_local_loss, f'local loss of {MODULE_1}', 'man_mm.SlimSLM'),
        (in_backward, f'backward of {MODULE_1}', 'optim_wrapper.eager_step=True'),
        (in_neck, r'main loss of neck and head \(forward\)', 'man_mm.ActivationCheckpointHook'),
        (
            in_main_backward,
            r'main loss of the last module, neck and head \(backward\)',
            'a last module that is smaller',
        ),
        (in_step, 'step of the optimizer', "share='stage'"),
    ],
)
def test_out_of_memory_names_module_phase_and_lever_once(harm, where, lever):
    run = trainer(4)
    harm(run)
    with pytest.raises(torch.cuda.OutOfMemoryError, match='Tried to allocate') as error:
        run.step()
    (note,) = error.value.__notes__
    assert lever in note and 'docs/memory.md' in note
    assert re.search(f'out of memory in the {where}', note), note


def test_an_eager_step_out_of_memory_names_its_module():
    run = trainer(4, eager_step=True)
    in_step(run)
    with pytest.raises(torch.cuda.OutOfMemoryError) as error:
        run.step()
    assert 'out of memory in the step of module 0 (stem .. layer1.0)' in error.value.__notes__[0]


def strided(x):
    """The same values in memory of which every second column is skipped."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    return wide[..., ::2]


LAYOUTS = {
    'skipped columns': strided,
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'expanded': lambda x: x[:1].expand(2, -1, -1, -1),
}


def step_with(layout, weights=torch.contiguous_format):
    run = trainer(4)
    run.model.to(memory_format=weights)
    seen = []

    def relay(_, args):
        x = layout(args[0])
        seen.append((x.is_contiguous(), x.clone(memory_format=torch.contiguous_format)))
        return (x,)

    run.model.backbone.register_forward_pre_hook(relay)
    run.step()
    return seen[0], run.gradients


@pytest.mark.parametrize('name', LAYOUTS)
def test_inputs_of_any_memory_format_give_the_gradients_of_contiguous_ones(name):
    (contiguous, x), ours = step_with(LAYOUTS[name])
    assert not contiguous
    _, theirs = step_with(lambda _: x)
    assert_equal(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_channels_last_model_has_the_gradients_of_a_contiguous_one():
    _, ours = step_with(LAYOUTS['channels last'], torch.channels_last)
    _, theirs = step_with(lambda x: x)
    assert_equal(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco', num_images=2)


def set_key(cfg, path, value):
    *parents, last = path
    for key in parents:
        cfg = cfg[key]
    cfg[last] = value


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        (('model', 'backbone', 'auxilary'), {}),
        (('model', 'backbone', 'backbone', 'depht'), 18),
        (('model', 'backbone', 'auxiliary', 'widht'), 0.5),
        (('model', 'backbone', 'auxiliary', 'neck', 'out_channel'), 8),
        (('model', 'bbox_head', 'num_class'), 3),
        (('optim_wrapper', 'eagerstep'), True),
        (('optim_wrapper', 'clip_grad'), dict(max_nrom=1)),
        (('optim_wrapper', 'optimizer', 'momentom'), 0.9),
        (('param_scheduler', 0, 'start_facter'), 0.1),
        (('train_cfg', 'max_epoch'), 1),
        (('train_dataloader', 'batchsize'), 2),
        (('custom_hooks', 0, 'logs'), 'total'),
        (('custom_hooks', 1, 'type'), 'man_mm.EpochSeedHok'),
        (('default_hooks', 'checkpoint'), dict(type='man_mm.SafeCheckpointHook', max_keep_ckpt=1)),
    ],
    ids=lambda value: '.'.join(map(str, value)) if isinstance(value, tuple) else '',
)
def test_a_misspelt_key_is_an_error_before_training_that_names_it(root, tmp_path, path, value):
    cfg = copy.deepcopy(run_config(root, tmp_path))
    cfg['custom_hooks'].append(dict(type='NoTraining'))
    set_key(cfg, path, value)
    name = 'max_keep_ckpt' if path[-1] == 'checkpoint' else 'max_nrom' if path[-1] == 'clip_grad' else path[-1]
    with pytest.raises((ValueError, TypeError, KeyError), match=value if name == 'type' else name):
        runner(cfg).train()


@HOOKS.register_module(force=True)
class NoTraining(Hook):
    """Fails when training starts."""

    def before_train_iter(self, runner, *args, **kwargs):
        raise AssertionError('training started with a misspelt key')


def test_batches_after_a_fault_train_as_if_it_had_not_been():
    run, other = trainer(4), trainer(4)
    handle = run.model.backbone.layer2[0].register_forward_hook(out_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run.step()
    handle.remove()
    run.optim_wrapper.zero_grad()
    run.step(batch(first=2))
    other.step(batch(first=2))
    assert_equal(run.gradients, other.gradients)
