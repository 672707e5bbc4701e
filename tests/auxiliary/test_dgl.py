"""DGL's network, layer by layer, against the table of AugLocal's comparison and the original."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..helpers.classification import batch, classifier, make, resnet32
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')

STAGES = {0: 16, 5: 16, 6: 32, 10: 32, 11: 64, 14: 64}
"""Module of ResNet-32 at K = 16: channels of its output."""


@pytest.mark.parametrize(('module', 'channels'), STAGES.items())
def test_layers_are_those_of_the_comparison(module, channels):
    auxiliary = resnet32('dgl').backbone.auxiliaries[module]
    convs = [m for m in auxiliary.convs.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.bias) for c in convs] == [
        (channels, channels, (1, 1), None)
    ] * 3
    hidden = [m for m in auxiliary.hidden if isinstance(m, nn.Linear)]
    width = 4 * channels
    assert [(layer.in_features, layer.out_features, layer.bias) for layer in hidden] == [(width, width, None)] * 2
    assert [type(m) for m in auxiliary.hidden] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2
    assert auxiliary.heads.head.fc.weight.shape == (10, width)
    count = 3 * (channels**2 + 2 * channels) + 2 * (width**2 + 2 * width) + 10 * width + 10
    assert sum(p.numel() for p in auxiliary.parameters()) == count


def test_the_original_has_three_hidden_layers_with_bias():
    auxiliary = resnet32('dgl', num_hidden=3, hidden_bias=True).backbone.auxiliaries[6]
    hidden = [m for m in auxiliary.hidden if isinstance(m, nn.Linear)]
    assert [layer.bias.shape for layer in hidden] == [(128,)] * 3
    count = 3 * (32**2 + 2 * 32) + 3 * (128**2 + 3 * 128) + 10 * 128 + 10
    assert sum(p.numel() for p in auxiliary.parameters()) == count


def test_no_hidden_layer_leaves_the_classifier_on_the_pooled_map():
    auxiliary = make(classifier('dgl', 2, num_hidden=0)).backbone.auxiliaries[0].eval()
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(auxiliary(x, {}), F.adaptive_avg_pool2d(auxiliary.convs(F.avg_pool2d(x, 4)), 2).flatten(1))


@pytest.mark.parametrize(('size', 'quarter'), [(32, 8), (16, 4), (8, 2), (96, 24), (48, 12), (24, 6), (9, 3)])
def test_maps_are_pooled_to_a_quarter_and_then_to_two_by_two(size, quarter):
    auxiliary = resnet32('dgl').backbone.auxiliaries[6].eval()
    seen = []
    auxiliary.convs.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].shape, output.shape)))
    auxiliary.hidden.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    with torch.no_grad():
        auxiliary(torch.randn(2, 32, size, size), {})
    assert seen == [((2, 32, quarter, quarter),) * 2, (2, 128)]


def test_its_vectors_are_what_the_published_layers_compute_one_after_the_other():
    auxiliary = resnet32('dgl').backbone.auxiliaries[6].train()
    x = torch.randn(3, 32, 16, 16)
    z = F.avg_pool2d(x, 4)  # 16 px to 4
    for conv in (m for m in auxiliary.convs.modules() if isinstance(m, nn.Conv2d)):
        z = F.batch_norm(F.conv2d(z, conv.weight), None, None, training=True).relu()
    z = F.avg_pool2d(z, 2).flatten(1)
    for linear in (m for m in auxiliary.hidden if isinstance(m, nn.Linear)):
        z = F.batch_norm(z @ linear.weight.T, None, None, training=True).relu()
    torch.testing.assert_close(auxiliary(x, {}), z)


def test_weights_start_he_normal():
    auxiliary = resnet32('dgl').backbone.auxiliaries[14]
    kernels = torch.cat([m.weight.flatten() for m in auxiliary.convs.modules() if isinstance(m, nn.Conv2d)])
    assert kernels.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.03) and abs(kernels.mean().item()) < 0.01
    norms = [m for m in auxiliary.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert norms and all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)
    bound = 256**-0.5  # torch's default of a linear layer
    weight = auxiliary.hidden[0].weight
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_the_loss_is_the_cross_entropy_of_its_classifier():
    run = Trainer(make(classifier('dgl', 2)))
    auxiliary, kept = run.model.backbone.auxiliaries[0], {}
    auxiliary.register_forward_hook(lambda module, inputs, output: kept.update(vector=output.detach()))
    fc = auxiliary.heads.head.fc
    weight, bias = fc.weight.detach().clone(), fc.bias.detach().clone()
    run.step(batch(4))
    expected = F.cross_entropy(kept['vector'] @ weight.T + bias, torch.arange(4))
    assert run.optim_wrapper.local_losses[0, 'total'].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('num_hidden', [-1, 1.5, True])
def test_a_number_of_layers_that_is_none_is_refused(num_hidden):
    with pytest.raises(ValueError, match=rf'auxiliary.num_hidden={num_hidden} must be an integer, 0 or more'):
        make(classifier('dgl', num_hidden=num_hidden))
