"""CKA of layers: the closed form, what it must not see and what it must, and the models left as they were."""

import copy

import pytest
import torch

from man_mm.analysis.cka import MinibatchCKA, centred_gram, compare_layers
from man_mm.analysis.features import layer_features, unit_names

from ..helpers import classification, detection


def hsic(x, y):
    """Nguyen et al., Eq. 3, word for word."""
    n = len(x)
    k, m = ((gram - gram.diag().diag()) for gram in (x @ x.T, y @ y.T))
    one = torch.ones(n, dtype=x.dtype)
    means = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (torch.trace(k @ m) + means - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def cka(*batches):
    """Of pairs of features, by the package."""
    meter = MinibatchCKA()
    for x, y in batches:
        meter.add(centred_gram(x)[None], centred_gram(y)[None])
    return meter.value().item()


@pytest.fixture
def x():
    return torch.randn(20, 6, dtype=torch.float64) + 3


@pytest.fixture
def y(x):
    return (x - 3) @ torch.randn(6, 9, dtype=torch.float64) + torch.randn(20, 9, dtype=torch.float64)


def test_one_batch_gives_the_closed_form(x, y):
    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert cka((x, y)) == pytest.approx(expected.item(), rel=1e-12)


def test_hsic_is_averaged_over_minibatches_before_it_is_divided(x, y):
    pairs = [(x[:8], y[:8]), (x[8:16], 5 * y[8:16])]
    averages = [sum(hsic(pair[i], pair[j]) for pair in pairs) / 2 for i, j in ((0, 1), (0, 0), (1, 1))]
    assert cka(*pairs) == pytest.approx((averages[0] / (averages[1] * averages[2]).sqrt()).item(), rel=1e-12)
    mean_of_ratios = sum(cka(pair) for pair in pairs) / 2
    assert abs(cka(*pairs) - mean_of_ratios) > 1e-3


def test_rotation_scale_and_shift_do_not_show_but_other_linear_maps_do(x, y):
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert cka((7 * x @ rotation - 2, y)) == pytest.approx(cka((x, y)), rel=1e-9)
    assert cka((x, x)) == pytest.approx(1, rel=1e-12)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert cka((stretched, y)) < cka((x, y)) - 0.1 and cka((stretched, x)) < 0.9


def test_independent_features_give_about_zero_even_when_there_are_more_of_them_than_images():
    batches = [(torch.randn(16, 100), torch.randn(16, 100)) for _ in range(60)]
    assert abs(cka(*batches)) < 0.05
    biased = [torch.corrcoef(torch.stack([(f - f.mean(0)) @ (f - f.mean(0)).T for f in pair]).flatten(1))[0, 1]
              for pair in batches]  # fmt: skip
    assert torch.stack(biased).mean() > 0.5  # what the unbiased estimate is for


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match='minibatch of 3 images'):
        centred_gram(torch.zeros(3, 2))
    with pytest.raises(ValueError, match='no minibatch'):
        MinibatchCKA().value()


def build(rule=None):
    return classification.make(classification.classifier(rule))


def batches(num=2):
    return [classification.batch(6, seed=i) for i in range(num)]


@pytest.mark.parametrize('rule', ['man', 'dgl'])
def test_local_and_plain_models_of_equal_weights_see_the_same(rule):
    plain, local = build(), build(rule)
    local.backbone.backbone.load_state_dict(plain.backbone.state_dict())
    (matrix,) = compare_layers([plain, local], [(0, 1)], batches())
    assert unit_names(plain) == unit_names(local) and matrix.shape == (7, 7)
    assert torch.allclose(matrix.diagonal(), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.T) and matrix[0, 6] < 0.99


def test_units_are_the_modules_of_the_same_name_in_plain_and_local_models():
    for model in (build(), build('man')):
        units = layer_features(model, batches()[0], torch.clone)
        names = ['layer1.0', 'layer3.1']
        modules = layer_features(model, batches()[0], torch.clone, [f'backbone.{name}' for name in names])
        assert all(torch.equal(units[name], modules[f'backbone.{name}']) for name in names)


def test_detectors_are_compared_too_pooled_or_whole():
    nets = [detection.build(detection.retinanet(k)) for k in (None, 4)]
    matrices = [compare_layers(nets, [(0, 1)], [detection.batch(4)], pooled=pooled)[0] for pooled in (False, True)]
    assert all(matrix.shape == (9, 9) and matrix.isfinite().all() for matrix in matrices)
    assert not torch.allclose(*matrices)
    necks = layer_features(nets[1], detection.batch(4), torch.clone, ['neck.fpn_convs.0'])
    assert necks['neck.fpn_convs.0'].shape[:2] == (4, 8)


def test_a_model_is_left_as_it_was():
    model = build('man').train()
    model.backbone.backbone.layer1.eval()  # frozen by hand
    before = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    for layers in (None, ['backbone.layer1.0', 'head.fc']):
        found = layer_features(model, batches()[0], torch.clone, layers)
        assert not any(value.requires_grad for value in found.values())
    for wrong, message in (('backbone.layer9', 'unknown'), ('backbone.auxiliaries.0', 'not reached')):
        with pytest.raises(ValueError, match=message):
            layer_features(model, batches()[0], torch.clone, ['backbone.layer1.0', wrong])
    assert [module.training for module in model.modules()] == before[1]
    assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.backbone.backbone.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
