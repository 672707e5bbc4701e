"""A local backward frees what its module kept; so the peak falls as K grows."""

import weakref

import pytest

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import SavedTensors, SpyWrapper, Trainer

NARROW_HEAD = dict(in_channels=2, feat_channels=2)
WIDE = dict(base_channels=16)
FPN_IN = [16, 32, 64, 128]


def narrow(num_modules, **backbone):
    """A wide backbone with a narrow readout: what local learning is for."""
    cfg = retinanet(num_modules, {**WIDE, **backbone})
    cfg['neck'] = {**cfg['neck'], 'in_channels': FPN_IN, 'out_channels': 2}
    cfg['bbox_head'] = {**cfg['bbox_head'], **NARROW_HEAD}
    cfg['backbone']['auxiliary'].update(neck=cfg['neck'])
    return build(cfg)


def watched_step(num_modules, before=None, after=None, **backbone):
    """Saved tensors and gradients of one step; `before(saved, module)` and `after` are told around every backward."""
    model = narrow(num_modules, **backbone)
    saved = SavedTensors(model)
    run = Trainer(
        model,
        SpyWrapper,
        before=before and (lambda loss, module: before(saved, module)),
        after=after and (lambda module: after(saved, module)),
    )
    with saved.watch():
        run.step(batch(size=128))
    return saved, run.gradients


@pytest.mark.parametrize(('num_modules', 'with_cp'), [(2, False), (4, True), (9, False), (9, True)])
def test_nothing_saved_for_backward_survives_a_local_backward(num_modules, with_cp):
    alive = []
    saved, _ = watched_step(num_modules, after=lambda saved, module: alive.append(saved.nbytes), with_cp=with_cp)
    assert saved.peak > 0
    assert alive == [0] * num_modules


def test_the_peak_of_saved_bytes_falls_with_the_number_of_modules():
    peaks = [watched_step(num_modules)[0].peak for num_modules in (1, 2, 4, 9)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4
    assert peaks[-1] < 0.8 * peaks[0]


@pytest.mark.parametrize('num_modules', [1, 4])
def test_checkpointing_inside_modules_saves_bytes_and_changes_no_gradient(num_modules):
    plain, expected = watched_step(num_modules)
    checkpointed, got = watched_step(num_modules, with_cp=True)
    assert checkpointed.peak < 0.9 * plain.peak
    assert got.keys() == expected.keys()
    assert all((got[name] - expected[name]).abs().max() <= 1e-6 for name in got)


def test_checkpointing_acts_in_every_module_even_where_a_module_is_one_block():
    plain, checkpointed = [], []
    watched_step(9, before=lambda saved, module: plain.append(saved.nbytes))
    watched_step(9, before=lambda saved, module: checkpointed.append(saved.nbytes), with_cp=True)
    assert len(plain) == len(checkpointed) == 9
    assert all(ours < theirs for ours, theirs in zip(checkpointed, plain, strict=True))


@pytest.mark.parametrize('num_modules', [2, 9])
def test_no_tensor_with_a_graph_outlives_its_module(num_modules):
    model, outputs, alive = narrow(num_modules), [], []

    def remember(module, args, output):
        outputs[-1].append(weakref.ref(output))

    def before(loss, module):
        alive.append([ref() is not None for earlier in outputs[:-1] for ref in earlier])
        outputs.append([])

    for layer in model.backbone.modules():
        if type(layer).__name__ == 'BasicBlock':
            layer.register_forward_hook(remember)
    outputs.append([])
    Trainer(model, SpyWrapper, before=before).step()
    assert len(alive) == num_modules and sum(map(len, alive)) > 0
    assert not any(map(any, alive))
