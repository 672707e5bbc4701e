"""The memory meter counts storages, exactly, forward and backward."""

import weakref

import pytest
import torch
from torch import nn

from man_mm.analysis.memory import KINDS, PeakMemory, training_tensors

from ..helpers.detection import build, retinanet

pytestmark = pytest.mark.cpu_only('the meter of a GPU is its allocator, this one counts tensors')

FLOAT = 4  # bytes


def test_known_pattern_gives_exact_bytes():
    with PeakMemory() as meter:
        first = torch.zeros(1000)
        second = torch.ones(500)
        total = first.sum() + second.sum()
    assert meter.start_bytes == 0
    assert meter.peak_bytes == (1000 + 500 + 3) * FLOAT  # three scalars
    del total
    assert meter.end_bytes == (1000 + 500 + 1) * FLOAT


def test_freed_tensors_are_not_counted():
    with PeakMemory() as meter:
        for _ in range(10):
            buffer = torch.zeros(1000)
            del buffer
        kept = torch.zeros(10)
    assert meter.peak_bytes == 1000 * FLOAT
    assert meter.end_bytes == kept.numel() * FLOAT


def test_views_and_in_place_results_count_once():
    with PeakMemory() as meter:
        x = torch.zeros(8, 8)
        views = [x.t(), x[2:], x.view(-1), x.detach(), x.add_(1)]
    assert len(views) == 5
    assert meter.peak_bytes == 64 * FLOAT


def test_a_view_keeps_its_storage_alive():
    with PeakMemory() as meter:
        x = torch.zeros(100)
        first = x[:1]
        del x
    assert first.numel() == 1
    assert meter.end_bytes == 100 * FLOAT


def test_older_tensors_count_only_if_registered():
    older, registered = torch.zeros(100), torch.zeros(1000)
    with PeakMemory({'weights': [registered, registered[1:]]}) as meter:
        result = (older[1:].add_(1), registered.mul_(2))
    assert len(result) == 2
    assert meter.start_bytes == meter.peak_bytes == 1000 * FLOAT


def test_registered_tensors_may_be_freed_inside():
    parameter = nn.Parameter(torch.zeros(10))
    parameter.grad = torch.zeros(10)
    with PeakMemory({'weights': [parameter], 'gradients': [parameter.grad]}) as meter:
        parameter.grad = None
    assert (meter.start_bytes, meter.end_bytes) == (20 * FLOAT, 10 * FLOAT)


def test_tensors_from_python_data_count():
    with PeakMemory() as meter:
        x = torch.tensor([1.0, 2.0, 3.0])
    assert meter.peak_bytes == x.numel() * FLOAT


def test_gradients_made_by_backward_count():
    net = nn.Linear(100, 10, bias=False)
    x = torch.randn(5, 100)
    with PeakMemory(training_tensors(net)) as meter:
        net(x).sum().backward()
    assert meter.start_bytes == 1000 * FLOAT
    assert meter.end_bytes == 2 * 1000 * FLOAT
    assert meter.peak_bytes > meter.end_bytes


def test_saved_activations_count_until_backward_frees_them():
    x = torch.ones(1000, requires_grad=True)
    with PeakMemory() as meter:
        y = x.exp().exp().exp()  # exp saves its result
        del y
        forward_end = torch.zeros(1)
    assert meter.peak_bytes == 3 * 1000 * FLOAT
    assert meter.end_bytes == forward_end.numel() * FLOAT


def test_checkpointing_lowers_the_peak():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)))

    def peak(chunks):
        net.zero_grad()
        x = torch.randn(512, 64, requires_grad=True)
        with PeakMemory(training_tensors(net)) as meter:
            torch.utils.checkpoint.checkpoint_sequential(net, chunks, x, use_reentrant=False).sum().backward()
        return meter.peak_bytes

    assert peak(4) < peak(1)


def test_optimizer_state_is_among_the_training_tensors():
    net = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    with PeakMemory(training_tensors(net, optimizer)) as meter:
        pass
    step_counter = 1
    assert meter.peak_bytes == (4 * 100 + step_counter) * FLOAT  # weight, gradient, two moments


def test_two_runs_give_the_same_bytes():
    def peak():
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
        optimizer = torch.optim.AdamW(net.parameters())
        with PeakMemory(training_tensors(net, optimizer)) as meter:
            net(torch.randn(2, 3, 32, 32)).sum().backward()
            optimizer.step()
        return meter.peak_bytes

    assert peak() == peak() > 0


def test_an_exception_inside_ends_the_metering():
    meter = PeakMemory()
    with pytest.raises(RuntimeError, match='inside'), meter:
        kept = torch.zeros(10)
        raise RuntimeError('inside')
    torch.zeros(1000)
    assert meter.peak_bytes == meter.end_bytes == kept.numel() * FLOAT


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match='meta'):
        PeakMemory(device='meta')


def test_new_tensors_are_activations_until_they_are_assigned_another_kind():
    with PeakMemory() as meter:
        kept, banked = torch.zeros(100), torch.zeros(1000)
        meter.assign(banked[1:], 'bank')  # a view stands for its storage
        last = torch.zeros(10)
    assert kept.numel() + last.numel() == 110
    assert meter.split == {'activations': 110 * FLOAT, 'bank': 1000 * FLOAT}


def test_older_tensors_are_of_the_kind_they_are_given_as():
    net = nn.BatchNorm1d(50)
    net.weight.grad = torch.zeros(50)
    with PeakMemory(training_tensors(net)) as meter:
        torch.zeros(1)
    counter = 8
    assert meter.split == dict(weights=4 * 50 * FLOAT + counter, gradients=50 * FLOAT, activations=FLOAT)


def test_what_is_not_counted_cannot_be_assigned():
    older = torch.zeros(100)
    with PeakMemory() as meter:
        older.add_(1)
        meter.assign(older, 'bank')
        meter.assign(torch.zeros(1), 'bank')
    assert meter.split == dict(activations=FLOAT)


def test_kinds_fall_with_what_is_freed():
    with PeakMemory() as meter:
        first = torch.zeros(100)
        meter.assign(first, 'bank')
        del first
        second = torch.zeros(200)
    assert meter.split == dict(bank=0, activations=second.numel() * FLOAT)


def test_phases_have_peaks_of_their_own_that_begin_with_what_is_left_of_the_ones_before():
    with PeakMemory() as meter:
        before = torch.zeros(10)
        meter.mark('big')
        kept, freed = torch.zeros(100), torch.zeros(1000)
        del freed
        meter.mark('small')
        last = torch.zeros(1)
    assert [(phase.name, phase.peak_bytes // FLOAT) for phase in meter.phases] == [
        ('', before.numel()),
        ('big', 1110),
        ('small', 10 + kept.numel() + last.numel()),
    ]
    assert [phase.start for phase in meter.phases] == [0, 1, 4]
    assert meter.peak_bytes == 1110 * FLOAT


def test_a_phase_in_which_nothing_happened_is_renamed_and_one_of_the_same_name_goes_on():
    older = torch.zeros(7)
    with PeakMemory({'weights': [older]}) as meter:
        meter.mark('empty')
        meter.mark('first')
        x = torch.zeros(10)
        meter.mark('first')
        y = torch.zeros(10)
    assert x.numel() == y.numel()
    assert [(phase.name, phase.start, phase.peak_bytes) for phase in meter.phases] == [('first', 0, 27 * FLOAT)]


def test_the_timeline_has_every_change_since_the_block_began():
    older = torch.zeros(5), torch.zeros(5)
    with PeakMemory({'weights': older}) as meter:
        x = torch.zeros(10)
        y = x.view(5, 2).t()  # no change
        z = torch.zeros(1)
        del x, y
    assert z.numel() == 1
    assert meter.timeline == [FLOAT * n for n in (20, 21, 11)]


def test_the_splits_of_the_step_and_of_each_phase_sum_to_their_peaks():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)))
    optimizer = torch.optim.Adam(net.parameters())
    with PeakMemory(training_tensors(net, optimizer)) as meter:
        for i, layer in enumerate(net):
            meter.mark(f'{i}')
            layer(torch.randn(100 - 10 * i, 64)).sum().backward()
        meter.mark('step')
        optimizer.step()
    assert [phase.name for phase in meter.phases] == ['0', '1', '2', '3', 'step']
    assert all(sum(phase.split.values()) == phase.peak_bytes for phase in meter.phases)
    assert sum(meter.split.values()) == meter.peak_bytes == max(meter.timeline)
    assert set(meter.split) <= set(KINDS)


def test_the_meter_keeps_nothing_alive():
    tensors = [torch.zeros(10)]
    meter = PeakMemory({'weights': tensors})
    gone = weakref.ref(tensors[0])
    with meter:
        tensors.clear()
        assert gone() is None
    assert meter.end_bytes == 0


def test_auxiliaries_are_told_from_the_weights():
    model = build(retinanet(2))
    found = training_tensors(model)
    sizes = {kind: sum(t.numel() for t in tensors) for kind, tensors in found.items()}
    own = model.backbone.auxiliaries
    assert sizes['auxiliary'] == sum(t.numel() for t in (*own.parameters(), *own.buffers())) > 0
    assert sizes['weights'] + sizes['auxiliary'] == sum(t.numel() for t in (*model.parameters(), *model.buffers()))
    assert sizes['gradients'] == sizes['optimizer'] == 0
