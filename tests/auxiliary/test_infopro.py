"""InfoPro: weights, layers and both estimators against the published tables and a double loop."""

import math

import pytest
import torch
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F

from man_mm.auxiliary.infopro import supervised_contrast

from ..helpers.classification import PREPROCESSOR, batch, classifier, make, resnet32
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')


@pytest.mark.parametrize(
    ('num_modules', 'first', 'last'),
    [(2, (5, 1), (5, 1)), (4, (6, 0), (1, 2)), (8, (5, 0), (0, 2)), (16, (5, 0.05), (0.2, 0.5))],
)
def test_weights_run_linearly_from_the_first_to_the_last_auxiliary(num_modules, first, last):
    model = resnet32('infopro', num_modules, lambda1=(first[0], last[0]), lambda2=(first[1], last[1]))
    for m, auxiliary in enumerate(model.backbone.auxiliaries):
        share = m / (num_modules - 2) if num_modules > 2 else 0
        assert auxiliary.lambda1 == pytest.approx(first[0] * (1 - share) + last[0] * share)
        assert auxiliary.lambda2 == pytest.approx(first[1] * (1 - share) + last[1] * share)


@pytest.mark.parametrize('estimator', ['softmax', 'contrast'])
@pytest.mark.parametrize(
    ('module', 'channels', 'wider', 'stride'),
    [(0, 16, 32, 2), (5, 16, 32, 2), (6, 32, 64, 2), (10, 32, 64, 2), (11, 64, 64, 1)],
)
def test_layers_are_the_published_ones(module, channels, wider, stride, estimator):
    auxiliary = resnet32('infopro', estimator=estimator).backbone.auxiliaries[module]
    first, norm, relu, last = auxiliary.decoder
    assert first.weight.shape == (12, channels, 3, 3) and last.weight.shape == (3, 12, 3, 3)
    assert first.bias is not None and last.bias is not None
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(relu, nn.ReLU)
    conv = auxiliary.conv[0]
    assert conv.weight.shape == (wider, channels, 3, 3) and conv.stride == (stride, stride) and conv.bias is None
    assert auxiliary.fc.weight.shape == (128, wider)
    if estimator == 'softmax':
        assert auxiliary.heads.head.fc.weight.shape == (10, 128)
    else:
        assert auxiliary.embed.weight.shape == (128, 128) and not len(auxiliary.heads)


@pytest.mark.parametrize('estimator', ['softmax', 'contrast'])
def test_its_vectors_and_images_are_what_the_published_layers_compute(estimator):
    auxiliary = resnet32('infopro', estimator=estimator).backbone.auxiliaries[0].train()
    x = torch.randn(3, 16, 8, 8)
    z = F.batch_norm(F.conv2d(x, auxiliary.conv[0].weight, stride=2, padding=1), None, None, training=True).relu()
    z = F.linear(z.mean((2, 3)), auxiliary.fc.weight, auxiliary.fc.bias).relu()
    if estimator == 'contrast':
        z = F.linear(z, auxiliary.embed.weight, auxiliary.embed.bias)
    torch.testing.assert_close(auxiliary(x, {}), z)
    first, _, _, last = auxiliary.decoder
    y = F.conv2d(F.interpolate(x, (15, 29), mode='bilinear', align_corners=True), first.weight, first.bias, padding=1)
    y = F.conv2d(F.batch_norm(y, None, None, training=True).relu(), last.weight, last.bias, padding=1)
    torch.testing.assert_close(auxiliary.reconstruct(x, (15, 29)), y)


def test_kernels_start_he_normal_and_linear_layers_as_torch_draws_them():
    auxiliary = resnet32('infopro').backbone.auxiliaries[11]
    for conv, fan_out in ((auxiliary.conv[0], 9 * 64), (auxiliary.decoder[0], 9 * 12)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert auxiliary.fc.weight.abs().max() <= 64**-0.5  # uniform
    for conv in (auxiliary.decoder[0], auxiliary.decoder[3]):  # biases as torch draws them, too
        assert conv.bias.abs().min() > 0 and conv.bias.abs().max() <= (9 * conv.in_channels) ** -0.5
    assert auxiliary.fc.weight.std().item() == pytest.approx((64 * 3) ** -0.5, rel=0.05)


def terms_of_a_step(data, model=None, **auxiliary):
    run = Trainer(make(classifier('infopro', 2, model=model, **auxiliary)))
    kept = {}
    own = run.model.backbone.auxiliaries[0]
    own.register_forward_hook(lambda module, inputs, output: kept.update(vector=output.detach()))
    own.decoder.register_forward_hook(lambda module, inputs, output: kept.update(logits=output.detach()))
    if len(own.heads):
        fc = own.heads.head.fc
        kept.update(weight=fc.weight.detach().clone(), bias=fc.bias.detach().clone())
    run.step(data)
    return {name: value.item() for (_, name), value in run.optim_wrapper.local_losses.items()}, kept


def test_the_image_is_reconstructed_from_its_pixels():
    data = batch(4)
    pixels = torch.stack(data['inputs']) / 255
    terms, kept = terms_of_a_step(data, lambda1=(5.0, 1.0), lambda2=(0.5, 1.0))
    q = kept['logits'].sigmoid().double()
    expected = -(pixels * q.log() + (1 - pixels) * (1 - q).log()).mean()
    assert terms['reconstruction'] == pytest.approx(5 * expected.item(), rel=1e-4)


def test_images_whose_channels_the_preprocessor_swaps_are_reconstructed_as_the_backbone_sees_them():
    data = batch(4)
    pixels = torch.stack(data['inputs'])[:, [2, 1, 0]] / 255
    terms, kept = terms_of_a_step(
        data,
        model=dict(data_preprocessor={**PREPROCESSOR, 'to_rgb': True}),
        lambda1=(5.0, 1.0),
        lambda2=(0.5, 1.0),
    )
    q = kept['logits'].sigmoid().double()
    expected = -(pixels * q.log() + (1 - pixels) * (1 - q).log()).mean()
    assert terms['reconstruction'] == pytest.approx(5 * expected.item(), rel=1e-4)


@pytest.mark.parametrize('estimator', ['softmax', 'contrast'])
@pytest.mark.parametrize('zero', ['lambda1', 'lambda2'])
def test_a_weight_of_zero_leaves_its_part_with_gradients_of_zero(zero, estimator):
    weights = {**dict(lambda1=(5.0, 1.0), lambda2=(0.5, 1.0)), zero: (0.0, 1.0)}
    run = Trainer(make(classifier('infopro', 2, estimator=estimator, **weights)))
    run.step(batch(4, labels=[0, 0, 1, 1]))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}
    is_still = {name: not grad.any() for name, grad in run.gradients.items() if '.auxiliaries.' in name}
    assert {name for name, still in is_still.items() if still} == {
        name for name in is_still if ('decoder' in name) is (zero == 'lambda1')
    }


def test_the_classifier_has_the_weight_lambda2():
    terms, kept = terms_of_a_step(batch(4), lambda1=(5.0, 1.0), lambda2=(0.5, 1.0))
    expected = F.cross_entropy(kept['vector'] @ kept['weight'].T + kept['bias'], torch.arange(4))
    assert terms['pred'] == pytest.approx(0.5 * expected.item(), rel=1e-4)


def naive_contrast(z, labels, temperature):
    z = [row / row.norm() for row in z.double()]
    total = 0.0
    for i, anchor in enumerate(z):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        denominator = sum(math.exp(anchor @ z[j] / temperature) for j in others)
        for j in positives:
            total -= math.log(math.exp(anchor @ z[j] / temperature) / denominator) / len(positives)
    return total / len(z)


@pytest.mark.parametrize('labels', [[0, 0, 1, 1, 1], [0, 1, 1, 2, 3], [4, 4, 4, 4, 4]])
def test_contrast_is_the_mean_over_anchors_of_what_a_loop_computes(labels):
    z = torch.randn(5, 6)
    ours = supervised_contrast(z, torch.tensor(labels), 0.5)
    assert ours.item() == pytest.approx(naive_contrast(z, labels, 0.5), rel=1e-4)


def test_classes_that_occur_once_contribute_nothing():
    z = torch.randn(4, 6, requires_grad=True)
    loss = supervised_contrast(z, torch.arange(4), 0.07)
    loss.backward()
    assert loss.item() == 0 and (z.grad == 0).all()


def test_contrast_is_weighted_and_needs_no_classifier():
    labels = [0, 0, 1, 2]
    terms, kept = terms_of_a_step(batch(4, labels=labels), estimator='contrast', lambda1=(5.0, 1.0), lambda2=(0.5, 1.0))
    assert terms['contrast'] == pytest.approx(0.5 * naive_contrast(kept['vector'], labels, 0.07), rel=1e-3)
    assert 'pred' not in terms


def test_a_batch_of_different_classes_trains_by_its_reconstruction_alone():
    run = Trainer(make(classifier('contrast')))
    run.step(batch(4))
    assert all(run.optim_wrapper.local_losses[module, 'contrast'] == 0 for module in range(3))
    assert all(gradient.isfinite().all() for gradient in run.gradients.values())
    assert run.gradients['backbone.backbone.conv1.weight'].any()


@pytest.mark.parametrize('target', ['gt_score', 'gt_label'])
def test_contrast_of_images_of_several_classes_is_refused(target):
    data = batch(4)
    several = DataSample().set_gt_score(torch.eye(10)[:2].sum(0)) if target == 'gt_score' else None
    data['data_samples'] = [several or DataSample().set_gt_label([0, 1]) for _ in range(4)]
    head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=16)
    with pytest.raises(ValueError, match='one class an image'):
        terms_of_a_step(data, model=dict(head=head), estimator='contrast')


def test_contrast_of_mixed_classes_is_refused():
    data = batch(4)
    for sample in data['data_samples']:
        sample.set_gt_score(torch.full((10,), 0.1))
    with pytest.raises(ValueError, match=r'one class an image.*train_cfg.augments'):
        terms_of_a_step(data, estimator='contrast')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(estimator='cosine'), r"auxiliary.estimator='cosine' must be one of \('softmax', 'contrast'\)"),
        (dict(lambda1=5.0), r'auxiliary.lambda1=5.0 must be two weights'),
        (dict(lambda2=(1.0, -1.0)), r'auxiliary.lambda2=\(1.0, -1.0\) must be two weights, 0 or more'),
        (dict(temperature=0), r'auxiliary.temperature=0 must be a number above 0'),
        (dict(temperature='x'), r"auxiliary.temperature='x' must be a number above 0"),
        (dict(estimator='contrast', head=dict(head=dict(type='LinearClsHead'))), r'auxiliary.head=.* cannot act'),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(classifier('infopro', **options))


def test_images_of_another_range_are_refused_by_who_reconstructs_them():
    model = dict(data_preprocessor={**PREPROCESSOR, 'mean': [32768.0] * 3, 'std': [16384.0] * 3})
    run = Trainer(make(classifier('infopro', 2, model=model)))
    data = batch(4)
    data['inputs'] = [image.float() * 257 for image in data['inputs']]  # 16 bits
    with pytest.raises(
        ValueError, match=r'pixels of 0 to 255, but these lie between 0 and 6.*16-bit images: by 1 / 257'
    ):
        run.step(data)


def test_images_that_the_pipeline_has_normalised_are_refused_by_who_reconstructs_them():
    run = Trainer(make(classifier('infopro', 2, model=dict(data_preprocessor=dict(num_classes=10)))))
    data = batch(4)
    data['inputs'] = [(image.float() - 120) / 60 for image in data['inputs']]
    with pytest.raises(ValueError, match=r'pixels of 0 to 255, but these lie between -2 and 2\.25'):
        run.step(data)
