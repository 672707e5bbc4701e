"""Networks that make an image as units: the first features are the tap, the body's blocks the units."""

import copy
import pickle

import pytest
import torch

from man_mm.local import run_units, unroll
from man_mm.local.families.restoration import FIRST, _constant

from ..helpers.detection import build
from ..helpers.device import DEVICE
from ..helpers.restoration import EDSR, NETS, SWINIR, batch, editor, make
from ..helpers.training import Trainer

VARIANTS = {
    'edsr x2': EDSR,
    'edsr x3': {**EDSR, 'upscale_factor': 3},
    'edsr x4': {**EDSR, 'upscale_factor': 4},
    'edsr, scaled residuals': {**EDSR, 'res_scale': 0.1},
    'edsr, own statistics': {**EDSR, 'rgb_mean': [0.1, 0.2, 0.3], 'rgb_std': [0.5, 0.6, 0.7]},
    'swinir': SWINIR,
    'swinir, light': {**SWINIR, 'upsampler': 'pixelshuffledirect'},
    'swinir, 3conv': {**SWINIR, 'resi_connection': '3conv'},
    'swinir, range': {**SWINIR, 'img_range': 255.0},
    'swinir, nearest x2': {**SWINIR, 'upsampler': 'nearest+conv'},
    'swinir, nearest x4': {**SWINIR, 'upsampler': 'nearest+conv', 'upscale': 4},
    'swinir, cleans': {**SWINIR, 'upsampler': '', 'upscale': 1, 'img_range': 2.0},
}


def images(size=16):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def output(model):
    torch.manual_seed(0)  # SwinIR drops paths in training
    return model.generator(images())


@pytest.mark.parametrize('name', VARIANTS)
def test_units_make_the_forward(name):
    net = build(VARIANTS[name], scope='mmagic').eval()
    described = unroll(net)
    x, taps = run_units(described.units, net, images())
    assert list(taps) == ['images', 'conv_first'][name != 'swinir, cleans' :]
    torch.testing.assert_close(described.finish(net, x, taps), net(images()))


@pytest.mark.parametrize('name', VARIANTS)
def test_units_and_tail_hold_every_parameter_once(name):
    net = build(VARIANTS[name], scope='mmagic')
    described = unroll(net)
    owned = [id(p) for unit in described.units for p in unit.parameters(net)]
    owned += [id(p) for path in described.tail for p in net.get_submodule(path).parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in net.parameters()}


@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('num_modules', [1, 2, 4])
def test_a_wrapped_generator_shows_neither_in_outputs_nor_in_keys(net, num_modules):
    plain, ours = make(editor(net, None)), make(editor(net, num_modules), seed=1)
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert [key for key in ours.state_dict() if 'auxiliaries.' not in key] == list(plain.state_dict())
    for mode in (False, True):
        plain.train(mode), ours.train(mode)
        assert torch.equal(output(ours), output(plain))


@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('tail', ['private', 'shared'])
def test_copies_of_a_model_are_whole(net, tail):
    model = make(editor(net, 3, auxiliary=dict(tail=tail)))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        known = {id(p) for p in twin.parameters()}
        assert all(id(p) in known for slm in twin.generator.auxiliaries for p in slm.shared_parameters())
        assert torch.equal(output(twin), output(model))
        run = Trainer(twin)
        run.step(batch())
        assert set(run.gradients) == {name for name, _ in twin.named_parameters()}


@pytest.mark.parametrize('net', NETS)
def test_images_under_autocast_are_as_precise_as_the_networks_own(net):
    generator = make(editor(net, 3)).generator.eval()
    described = generator.unrolled
    with torch.autocast(DEVICE.type, torch.bfloat16):
        expected = generator.backbone(images())
        got = described.finish(generator.backbone, *run_units(described.units, generator.backbone, images()))
    assert got.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_an_slm_is_one_block_and_the_tail():
    generator = make(editor('edsr', 5)).generator
    for module, slm in enumerate(generator.auxiliaries):
        assert [unit.name for unit in slm.units] == [f'body.{module}']
        parts = {key.split('.')[0] for key in slm.layers.state_dict()}
        assert parts == {'body', 'conv_after_body', 'upsample', 'conv_last'}
        source = generator.backbone.body[module].conv1.weight
        assert torch.equal(slm.layers.get_submodule(f'body.{module}.conv1').weight, source)


@pytest.mark.parametrize(('net', 'most'), [('edsr', 5), ('swinir', 4)])
def test_every_number_of_modules_up_to_the_number_of_units_builds(net, most):
    for num_modules in range(1, most + 1):
        assert len(make(editor(net, num_modules)).generator.auxiliaries) == num_modules - 1
    with pytest.raises(ValueError, match=f'num_modules={most + 1} .* to {most},'):
        make(editor(net, most + 1))


def test_position_embeddings_of_one_image_size_are_refused():
    net = build({**SWINIR, 'ape': True}, scope='mmagic')
    with pytest.raises(ValueError, match='SwinIRNet with ape=True cannot be unrolled'):
        unroll(net)


@pytest.mark.parametrize('num_modules', [2, 4])
def test_a_network_that_cleans_images_trains_all_of_itself(num_modules):
    run = Trainer(make(editor('swinir', num_modules, backbone=dict(upsampler='', upscale=1, drop_path_rate=0.0))))
    run.step(batch(scale=1))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}
    assert all(gradient.any() for gradient in run.gradients.values())


def test_a_patch_that_does_not_divide_into_windows_is_refused():
    net = build(SWINIR, scope='mmagic')
    described = unroll(net)
    with pytest.raises(ValueError, match='12 x 12 px do not divide'):
        run_units(described.units[:1], net, images(12))


def test_constants_that_were_first_made_in_inference_mode_can_be_trained_with():
    run = Trainer(make(editor('edsr', backbone=dict(rgb_std=[0.5, 0.6, 0.7]))))
    backbone = run.model.generator
    _constant.cache_clear()
    x = torch.randn(1, 8, 4, 4, device=DEVICE)
    with torch.inference_mode():
        backbone.unrolled.finish(backbone.backbone, x, {FIRST: x})
    run.step(batch())
    assert run.gradients['generator.backbone.conv_first.weight'].any()
