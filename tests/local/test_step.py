"""The loop of a step: whoever listens sees its phases, and what modules pass on may be several tensors."""

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn
from torch.profiler import ProfilerActivity, profile

from man_mm.local import LocalModule, StageOutputs, Unit, Unrolled, listen_to_phases, register_unroll

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import SpyWrapper, Trainer, auxiliary_indices, local_parameters, named, reached, trainer


def test_a_profile_of_a_step_names_every_module_and_phase():
    run = trainer(4)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run.step()
    ranges = [event.key for event in found.key_averages() if ': ' in event.key]
    expected = {f'{module}: {name}' for module in run.model.backbone.local_modules for name in ('forward',)}
    for module in run.model.backbone.local_modules[:-1]:
        expected |= {f'{module}: {name}' for name in ('local loss', 'backward')}
    assert expected <= set(ranges)
    assert 'the optimizer: step' in ranges and 'neck and head (forward): main loss' in ranges


def index_of(where):
    return where.index if isinstance(where, LocalModule) else None


def test_phases_come_in_the_order_of_the_step_and_no_listener_stays():
    run, seen = trainer(3), []
    with listen_to_phases(lambda name, where: seen.append((name, index_of(where)))):
        run.step()
    local = [(name, m) for m in range(2) for name in ('forward', 'local loss', 'backward')]
    main = [('main loss', None), ('step', None)]
    assert seen == [('main loss', None), *local, ('forward', 2), *main]
    run.step()
    assert len(seen) == len(local) + 4


class Fork(nn.Module):
    """Two maps of one: the second one of half the size."""

    def __init__(self, width):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(3, 2 * width, 3, 4, 1)

    def forward(self, x):
        return self.fine(x), self.coarse(x)


class Exchange(nn.Module):
    """Both maps, each with something of the other one."""

    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, maps):
        fine, coarse = maps
        return fine + nn.functional.interpolate(self.up(coarse), fine.shape[2:]), (coarse + self.down(fine)).relu()


class Join(nn.Module):
    """One map of both."""

    def __init__(self, width):
        super().__init__()
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)

    def forward(self, maps):
        return maps[1] + self.down(maps[0])


class Branches(BaseModule):
    """A backbone of two resolutions, which ends in one map of stride 4."""

    def __init__(self, width=4):
        super().__init__()
        self.fork, self.join = Fork(width), Join(width)
        self.exchanges = nn.Sequential(*(Exchange(width) for _ in range(3)))

    def forward(self, x):
        return (self.join(self.exchanges(self.fork(x))),)


@register_unroll(Branches)
def branches(net):
    units = [Unit(f'exchanges.{i}', 'exchanges', (f'exchanges.{i}',)) for i in range(3)]
    fork, join = Unit('fork', 'fork', ('fork',)), Unit('join', 'join', ('join',), tap='map')
    return Unrolled((fork, *units, join), StageOutputs(('map',)))


def many_resolutions(num_modules, **options):
    """A RetinaNet on `Branches`, with a neck that reads its map."""
    neck = dict(type='FPN', in_channels=[8], out_channels=8, num_outs=5)
    cfg = retinanet(num_modules, auxiliary=dict(neck=neck, **options))
    head = {
        **cfg['bbox_head'],
        'anchor_generator': {**cfg['bbox_head']['anchor_generator'], 'strides': [4, 8, 16, 32, 64]},
    }
    cfg['backbone'] = {**cfg['backbone'], 'backbone': dict(type=Branches)}
    return {**cfg, 'neck': neck, 'bbox_head': head}


@pytest.mark.parametrize('num_modules', [2, 3, 5])
def test_units_may_pass_several_tensors_on(num_modules):
    model, seen = build(many_resolutions(num_modules, head='private')), {}
    run = Trainer(model, SpyWrapper, before=lambda loss, module: seen.update({module: reached(loss, model)}))
    run.step()
    for module in range(num_modules - 1):
        assert seen[module] == local_parameters(model, module)
    assert set(run.gradients) == named(model, '')
    assert auxiliary_indices(model.backbone) == tuple(range(num_modules - 1))
    x = torch.randn(1, 3, 64, 64)
    model.eval()
    assert torch.equal(model.backbone(x)[0], model.backbone.backbone(x)[0])


def test_cuts_by_memory_know_several_tensors_too():
    cfg = many_resolutions(3)
    cfg['backbone'].update(partition='memory', probe_size=(64, 64))
    Trainer(build(cfg)).step(batch())
