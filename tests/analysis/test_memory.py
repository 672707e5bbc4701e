"""The memory meter counts storages, exactly, forward and backward."""

import pytest
import torch
from torch import nn

from man_mm.analysis.memory import PeakMemory, training_tensors

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
    with PeakMemory([registered, registered[1:]]) as meter:
        result = (older[1:].add_(1), registered.mul_(2))
    assert len(result) == 2
    assert meter.start_bytes == meter.peak_bytes == 1000 * FLOAT


def test_registered_tensors_may_be_freed_inside():
    parameter = nn.Parameter(torch.zeros(10))
    parameter.grad = torch.zeros(10)
    with PeakMemory([parameter, parameter.grad]) as meter:
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
