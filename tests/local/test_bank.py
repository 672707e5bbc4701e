"""The feature bank: detached, guarded against in-place changes, gone after a step."""

import gc
import weakref

import pytest
import torch

from man_mm.local import FeatureBank

from ..helpers.detection import build, retinanet
from ..helpers.training import SpyWrapper, Trainer, trainer

pytestmark = pytest.mark.usefixtures('device')


@pytest.fixture
def bank():
    return FeatureBank({'layer1': False, 'layer2': True, 'layer3': False})


def feature(*size):
    return torch.randn(*size, requires_grad=True) * 2


def test_entries_are_detached_and_share_memory(bank):
    tap = feature(2, 3, 4, 4)
    bank.put({'layer1': tap})
    got = bank.get('layer1')
    assert torch.equal(got, tap) and not got.requires_grad and got.grad_fn is None
    assert got.data_ptr() == tap.data_ptr()


def test_a_pooled_tap_is_banked_as_means_and_one_that_nobody_reads_is_not(bank):
    tap = feature(2, 3, 4, 4)
    bank.put({'layer2': tap, 'other': tap})
    assert list(bank.taps()) == ['layer2'] and not bank.get('layer2').requires_grad
    assert torch.equal(bank.get('layer2'), tap.mean((2, 3)))


def test_an_auxiliary_sees_the_maps_of_its_module_with_their_graph_and_earlier_taps_without(bank):
    early, own = feature(2, 3, 4, 4), feature(2, 3, 2, 2)
    bank.put({'layer1': early})
    seen = bank.seen_with({'layer2': own, 'layer3': own, 'other': own})
    assert set(seen) == {'layer1', 'layer3'} and seen['layer3'] is own and not seen['layer1'].requires_grad


def test_what_is_restored_is_what_another_bank_held(bank):
    bank.put({'layer1': feature(2, 3, 4, 4), 'layer2': feature(2, 3, 4, 4)})
    other = FeatureBank(bank.pooled)
    other.restore(bank.taps())
    assert all(torch.equal(tap, other.get(name)) for name, tap in bank.taps().items())


def test_a_change_in_place_after_banking_raises(bank):
    tap = feature(2, 3)
    bank.put({'layer1': tap})
    tap.detach().relu_()
    with pytest.raises(RuntimeError, match="tap 'layer1' was changed in place"):
        bank.get('layer1')
    with pytest.raises(RuntimeError, match='layer1'):
        bank.taps()


def test_an_unknown_tap_is_an_error_that_lists_those_held(bank):
    bank.put({'layer1': feature(1)})
    with pytest.raises(KeyError, match=r"'layer3'.*layer1"):
        bank.get('layer3')


def test_bytes_are_counted_as_stored(bank):
    tap = feature(2, 3, 4, 4)
    bank.put({'layer1': tap})
    bank.put({'layer3': tap[:1]})
    assert bank.nbytes == bank.peak_bytes == 4 * (96 + 48)


def test_the_bank_holds_exactly_the_taps_before_the_cut_while_training():
    held = []

    def before(loss, module):
        held.append(module is not None and sorted(model.backbone.step.bank.taps()))

    model = build(retinanet(4))  # cuts after units 2, 4, 7: layer1.0, layer2.0, layer3.1
    Trainer(model, SpyWrapper, before=before).step()
    assert held == [[], [], ['layer1'], False]  # the main backward comes after the forward, when the step is dropped


def test_nothing_of_a_step_is_left_after_it_and_its_bytes_are_logged():
    run = trainer(4)
    banks = []
    run.model.backbone.register_forward_pre_hook(lambda net, _: banks.append(weakref.ref(net.step.bank)))
    for _ in range(2):
        run.step()
        gc.collect()
        assert run.model.backbone.step is None and banks[-1]() is None
    taps = 4 * 2 * sum(channels * size**2 for channels, size in ((16, 8), (32, 4)))  # of layer1 no neck reads anything
    assert len(banks) == 2 and run.message_hub.get_scalar('train/bank_mib').current() == taps / 2**20


def test_nothing_of_a_step_is_left_after_an_exception_in_the_forward():
    run = trainer(4)
    seen = []

    def fail(*_):
        seen.append(run.model.backbone.step.bank.nbytes)
        raise RuntimeError('out of memory')

    handle = run.model.backbone.backbone.layer4.get_submodule('0').register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        run.step()
    assert seen[0] > 0
    assert run.model.backbone.step is None
    handle.remove()
    run.step()


def test_a_step_that_was_interrupted_from_the_keyboard_does_not_go_on_in_the_next_call():
    run = trainer(4)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = run.model.backbone.backbone.layer4.get_submodule('0').register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.step()
    handle.remove()
    run.optimizer.zero_grad()
    run.model(torch.randn(1, 3, 64, 64), mode='tensor')
    assert run.model.backbone.step is None and not any(p.grad is not None for p in run.model.parameters())
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
    assert all(not without['auxiliary'][name].any() for name in ('layer1', 'layer2'))
    assert with_bank['auxiliary']['layer2'].any()
    assert all(torch.equal(a, b) for a, b in zip(with_bank['main'][1:], without['main'][1:], strict=True))
