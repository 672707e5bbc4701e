"""The feature bank: detached, guarded against in-place changes, empty outside of an iteration."""

import pytest
import torch

from man_mm.local import FeatureBank

from ..helpers.detection import build, retinanet
from ..helpers.training import SpyWrapper, Trainer, trainer

pytestmark = pytest.mark.usefixtures('device')


@pytest.fixture
def bank():
    bank = FeatureBank()
    bank.open(None, None)
    return bank


def feature(*size):
    return torch.randn(*size, requires_grad=True) * 2


def test_entries_are_detached_and_share_memory(bank):
    tap = feature(2, 3, 4, 4)
    bank.put('layer1', tap)
    got = bank.get('layer1')
    assert torch.equal(got, tap) and not got.requires_grad and got.grad_fn is None
    assert got.data_ptr() == tap.data_ptr()


def test_a_change_in_place_after_banking_raises(bank):
    tap = feature(2, 3)
    bank.put('layer1', tap)
    tap.detach().relu_()
    with pytest.raises(RuntimeError, match="tap 'layer1' was changed in place"):
        bank.get('layer1')
    with pytest.raises(RuntimeError, match='layer1'):
        bank.taps()


def test_an_unknown_tap_is_an_error_that_lists_those_held(bank):
    bank.put('layer1', feature(1))
    with pytest.raises(KeyError, match=r"'layer3'.*layer1"):
        bank.get('layer3')


def test_a_closed_bank_takes_nothing(bank):
    bank.close()
    with pytest.raises(AssertionError):
        bank.put('layer1', feature(1))


def test_opening_drops_the_last_iteration(bank):
    bank.put('layer1', feature(4))
    bank.open('inputs', 'targets')
    assert bank.nbytes == bank.peak_bytes == 0 and not bank.taps()
    assert (bank.inputs, bank.targets) == ('inputs', 'targets')


def test_bytes_are_counted_as_stored():
    bank = FeatureBank()
    bank.open(None, None)
    tap = feature(2, 3, 4, 4)
    bank.put('a', tap)
    bank.put('b', tap[:1])
    assert bank.nbytes == bank.peak_bytes == 4 * (96 + 48)
    bank.close()
    assert bank.nbytes == 0 and bank.inputs is None


def test_the_bank_holds_exactly_the_taps_before_the_cut_while_training():
    held = []
    model = build(retinanet(4))  # cuts behind units 2, 4, 7: layer1.0, layer2.0, layer3.1
    run = Trainer(model, SpyWrapper, before=lambda loss, module: held.append(sorted(model.backbone.bank.taps())))
    run.step()
    assert held == [[], [], ['layer1'], []]  # the main backward comes after the forward, when the bank is closed


def test_the_bank_is_empty_between_iterations_and_its_bytes_are_logged():
    run = trainer(4)
    bank = run.model.backbone.bank
    for _ in range(2):
        run.step()
        assert not bank.is_open and bank.nbytes == 0 and bank.inputs is None and bank.targets is None
    taps = 4 * 2 * sum(channels * size**2 for channels, size in ((8, 16), (16, 8), (32, 4)))
    assert run.message_hub.get_scalar('train/bank_mib').current() == taps / 2**20


def test_the_bank_is_empty_after_an_exception_in_the_forward():
    run = trainer(4)
    bank = run.model.backbone.bank
    seen = []

    def fail(*_):
        seen.append(bank.nbytes)
        raise RuntimeError('out of memory')

    handle = run.model.backbone.backbone.layer4.get_submodule('0').register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        run.step()
    assert seen[0] > 0
    assert not bank.is_open and bank.nbytes == 0 and bank.inputs is None
    handle.remove()
    run.step()


def taps_seen(**model_options):
    """The earlier taps that the last auxiliary and the main finish got, from one step."""
    run = trainer(5, model_options=model_options)
    backbone, seen = run.model.backbone, {}
    backbone.auxiliaries[-1].register_forward_pre_hook(lambda _, args: seen.update(auxiliary=dict(args[1])))
    run.model.neck.register_forward_pre_hook(lambda _, args: seen.update(main=args[0]))
    run.step()
    return seen


def test_without_the_bank_auxiliaries_see_zeros_and_the_main_network_its_taps():
    with_bank, without = taps_seen(), taps_seen(bank=False)
    names = set(without['auxiliary']) - {'layer4'}
    assert {'layer1', 'layer2'} <= names
    assert all(not without['auxiliary'][name].any() for name in ('layer1', 'layer2'))
    assert all(with_bank['auxiliary'][name].any() for name in ('layer1', 'layer2'))
    assert all(torch.equal(a, b) for a, b in zip(with_bank['main'], without['main'], strict=True))
