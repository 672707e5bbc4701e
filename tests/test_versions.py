"""What differs between versions of Python and torch acts the same on each."""

import logging

import pytest
import torch

from man_mm import versions
from man_mm.analysis import memory


class WithoutNotes(OSError):
    """As errors of Python 3.10 are."""

    add_note = property()


def test_a_note_is_read_with_the_error_or_in_the_log(monkeypatch):
    logged = []
    monkeypatch.setattr(versions, 'print_log', lambda text, **how: logged.append((text, how['level'])))
    for error in (WithoutNotes(), OSError()):
        versions.add_note(error, 'the disk is full')
        assert error.__notes__ == ['the disk is full']
    assert ('the disk is full', logging.ERROR) in logged


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
@pytest.mark.parametrize('enabled', [False, True])
def test_autocast_is_asked_and_set_by_device(device, enabled):
    with torch.autocast('cpu', torch.bfloat16):
        before = versions.is_autocast_on(device)
        versions.set_autocast(device, enabled)
        assert versions.is_autocast_on(device) is enabled
        versions.set_autocast(device, before)
        assert versions.autocast_dtype('cpu') is torch.bfloat16


def test_operations_are_counted_by_tensors_or_by_shapes():
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    assert versions.flops_of(torch.ops.aten.mm.default, (a, b), {}, a @ b) == 2 * 2 * 3 * 5
    assert versions.flops_of(torch.ops.aten.add.Tensor, (a, a), {}, a) == 0


def test_a_torch_whose_storages_cannot_be_followed_is_refused_by_the_meter(monkeypatch):
    monkeypatch.setattr(memory, 'KEEPS_STORAGES', False)
    with pytest.raises(RuntimeError, match=r'cannot be metered with torch .*: 2.2 or newer'):
        memory.PeakMemory()
