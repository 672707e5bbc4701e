"""MMagic's models with a pixel loss as hosts: every module is trained by the image that its SLM makes."""

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn import functional as F

from man_mm.local.names import is_auxiliary_key

from ..helpers.restoration import NETS, batch, editor, make
from ..helpers.training import SpyWrapper, Trainer, assert_equal, reached

LIGHT = dict(
    upsample=dict(type='pixel_shuffle', in_channels=8, out_channels=3, scale_factor=2, upsample_kernel=3),
    conv_last=None,
)
FPN = dict(type='mmdet.FPN', in_channels=[8], out_channels=8, num_outs=1)
TAILS = {'private': 'private', 'shared': 'shared', 'light': LIGHT}


def pair():
    """Images of the batch as the network sees them: low and high resolution."""
    data = batch()
    low = torch.stack(data['inputs']) / 255
    return low, torch.stack([sample.gt_img for sample in data['data_samples']]) / 255


def image_by_hand(net, slm, x, first):
    """EDSR's end, written out: block, conv, long skip, upsampler, last conv, mean."""
    x = slm.layers.get_submodule(slm.units[0].name)(x)
    x = slm.layers.conv_after_body(x) + first
    return slm.layers.conv_last(slm.layers.upsample(x)) + net.mean


@pytest.mark.parametrize('bank', [True, False])
def test_local_losses_are_the_formula(bank):
    model = make(editor('edsr', 3, bank=bank))
    generator, net = model.generator, model.generator.backbone
    low, high = pair()
    with torch.no_grad():
        first = net.conv_first(low - net.mean)
        after_0 = net.body[0](first)
        after_1 = net.body[1](after_0)
        banked = first if bank else torch.zeros_like(first)
        expected = [
            F.l1_loss(image_by_hand(net, generator.auxiliaries[0], after_0, first), high),  # its own first features
            F.l1_loss(image_by_hand(net, generator.auxiliaries[1], after_1, banked), high),
        ]
    assert [generator.partition.span(m) for m in range(3)] == [(0, 2), (2, 3), (3, 5)]
    run = Trainer(model)
    run.step(batch())
    got = run.optim_wrapper.local_losses
    assert list(got) == [(0, 'total'), (1, 'total')]
    torch.testing.assert_close(torch.stack(list(got.values())), torch.stack(expected))


@pytest.mark.parametrize('tail', TAILS)
@pytest.mark.parametrize('bank', [True, False])
@pytest.mark.parametrize('num_modules', [2, 3, 5])
def test_no_graph_crosses_a_cut(num_modules, bank, tail):
    seen = []

    def before(loss, module):
        generator = model.generator
        names = {p: name for name, p in model.named_parameters()}
        last = num_modules - 1
        expected = {
            names[p] for p in generator.local_modules[last if module is None else module].parameters(generator.backbone)
        }
        net = generator.backbone
        tail_parameters = {names[p] for path in generator.unrolled.tail for p in net.get_submodule(path).parameters()}
        if module is None or tail == 'shared':
            expected |= tail_parameters
        assert reached(loss, model) == expected
        seen.append(module)

    model = make(editor('edsr', num_modules, auxiliary=dict(tail=TAILS[tail]), bank=bank))
    Trainer(model, SpyWrapper, before=before).step(batch())
    assert seen == [*range(num_modules - 1), None]


@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('auxiliary', [{}, dict(units_per_stage=0), dict(units_per_stage=2), dict(init='random')])
def test_every_part_trains(net, auxiliary):
    run = Trainer(make(editor(net, 4, auxiliary=auxiliary)))
    run.step(batch())
    assert set(run.gradients) == {name for name, p in run.model.named_parameters() if p.requires_grad}


def test_gradients_of_a_shared_tail_are_the_sum_the_mean_or_the_last():
    def of_tail(**auxiliary):
        run = Trainer(make(editor('edsr', 3, auxiliary=dict(tail='shared', **auxiliary))))
        run.step(batch())
        parts = ('conv_after_body', 'upsample', 'conv_last')
        start = 'generator.backbone.'
        return {k: v for k, v in run.gradients.items() if k.removeprefix(start).startswith(parts)}

    total, mean, last = of_tail(), of_tail(shared_head_grad='mean'), of_tail(shared_head_grad='last')
    assert total and total.keys() == mean.keys() == last.keys()
    assert_equal({k: v / 3 for k, v in total.items()}, mean, rtol=1e-4, atol=1e-8)
    alone = Trainer(make(editor('edsr', 3)))
    alone.step(batch())
    assert_equal(last, {k: alone.gradients[k] for k in last})


def test_a_shared_tail_has_no_weights_of_its_own_and_a_light_one_others():
    def keys(tail):
        return set(make(editor('edsr', 2, auxiliary=dict(tail=tail))).generator.auxiliaries[0].state_dict())

    private, shared, light = keys('private'), keys('shared'), keys(LIGHT)
    assert {key.split('.')[1] for key in shared} == {'body'} < {key.split('.')[1] for key in private}
    assert light == {k for k in private if 'conv_last' not in k and 'upsample.' not in k} | {
        'layers.upsample.upsample_conv.weight',
        'layers.upsample.upsample_conv.bias',
    }


@pytest.mark.parametrize(
    ('tail', 'message'),
    [
        ('common', "tail='common' must be"),
        (dict(upsampel=None), r"names \['upsampel'\], .*'upsample'"),
        (3, 'tail=3'),
        ({}, 'tail={} must map'),
        (dict(conv_last='x'), 'must map layers, some of'),
    ],
)
def test_a_tail_that_is_none_is_refused(tail, message):
    with pytest.raises(ValueError, match=message):
        make(editor('edsr', 2, auxiliary=dict(tail=tail)))


def test_one_module_is_back_propagation_to_the_bit():
    ours, plain = Trainer(make(editor('edsr', 1))), make(editor('edsr', None))
    theirs = Trainer(make(editor('edsr', 1)))
    theirs.model.generator = plain.generator
    ours.step(batch())
    loss = theirs.model.forward_train(pair()[0], _samples())['loss']
    loss.backward()
    assert_equal(
        {k.replace('generator.backbone.', 'generator.'): v for k, v in ours.gradients.items()},
        {name: p.grad for name, p in theirs.model.named_parameters()},
    )


def _samples():
    """Targets as the preprocessor hands them over."""
    model = make(editor('edsr', None))
    return model.data_preprocessor(batch(), True)['data_samples']


@pytest.mark.parametrize('net', NETS)
def test_predictions_after_training_are_the_plain_models(net):
    run = Trainer(make(editor(net, 3)))
    for seed in range(2):
        run.step(batch(seed=seed))
    plain = make(editor(net, None)).eval()
    weights = {k: v for k, v in run.model.state_dict().items() if not is_auxiliary_key(k)}
    plain.load_state_dict(weights, strict=True)
    with torch.no_grad():
        got, expected = run.model.eval().test_step(batch()), plain.test_step(batch())
    assert all(torch.equal(a.output.pred_img, b.output.pred_img) for a, b in zip(got, expected, strict=True))


def test_weights_of_x2_start_x4_with_its_slms():
    small, large = make(editor('edsr', None, scale=2)), make(editor('edsr', 3, scale=4), seed=1)
    large.load_state_dict(small.state_dict(), strict=False)
    slm = large.generator.auxiliaries[1].layers
    for path in ('body.2.conv1', 'conv_after_body', 'upsample.0.upsample_conv'):
        assert torch.equal(slm.get_submodule(path).weight, small.generator.get_submodule(path).weight)


@pytest.mark.parametrize(('first', 'second'), [(2, 3), (2, 4)])
def test_trained_slms_of_x2_start_those_of_another_scale(first, second):
    small, large = make(editor('edsr', 3, scale=first)), make(editor('edsr', 3, scale=second), seed=1)
    for p in small.generator.auxiliaries.parameters():
        torch.nn.init.normal_(p)
    large.load_state_dict({k: v for k, v in small.state_dict().items() if 'upsample' not in k}, strict=False)
    for ours, theirs in zip(large.generator.auxiliaries, small.generator.auxiliaries, strict=True):
        for key, value in ours.layers.state_dict().items():
            if 'upsample' not in key:
                assert torch.equal(value, theirs.layers.state_dict()[key])


@pytest.mark.parametrize('auxiliary', [dict(head='private'), dict(neck=FPN)])
def test_necks_and_private_heads_are_refused(auxiliary):
    with pytest.raises(ValueError, match='BaseEditModel has neither neck nor heads'):
        Trainer(make(editor('edsr', 2, auxiliary=auxiliary)))


def test_a_model_with_a_training_step_of_its_own_is_refused():
    base = MODELS.get('mmagic.BaseEditModel')

    class Adversarial(base):
        def train_step(self, data, optim_wrapper):
            return super().train_step(data, optim_wrapper)

    model = make(editor('edsr', 2))
    model.__class__ = Adversarial
    with pytest.raises(ValueError, match='Adversarial trains by a train_step of its own'):
        Trainer(model)


def test_grey_images_are_refused_by_name_of_the_keys():
    cfg = editor('edsr', 2)
    cfg['data_preprocessor'].update(mean=[0.0], std=[255.0])
    with pytest.raises(ValueError, match=r'1 channel\(s\), but model.generator reads 3'):
        Trainer(make(cfg)).step(batch(channels=1))
