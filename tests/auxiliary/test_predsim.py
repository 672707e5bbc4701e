"""PredSim: its losses against a loop over pairs, its pooling against the published table."""

import pytest
import torch
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from man_mm.auxiliary.predsim import pooling_kernel, similarity

from ..helpers.classification import PREPROCESSOR, batch, classifier, make, resnet32
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')


@pytest.mark.parametrize(
    ('shape', 'kernel', 'pooled'),
    [
        ((16, 32, 32), (8, 4), (4, 8)),
        ((32, 16, 16), (4, 4), (4, 4)),
        ((64, 8, 8), (4, 2), (2, 4)),
        ((16, 96, 96), (32, 16), (3, 6)),
        ((32, 48, 48), (16, 16), (3, 3)),
        ((64, 24, 24), (16, 8), (2, 3)),
    ],
)
def test_pooling_is_the_published_one(shape, kernel, pooled):
    assert pooling_kernel(shape, 512) == kernel
    module = {16: 0, 32: 6, 64: 11}[shape[0]]
    size = shape[1] * shape[0] // 16  # of the images
    auxiliary = resnet32('predsim', size=size, max_features=512).backbone.auxiliaries[module]
    vector = auxiliary(torch.zeros(1, *shape), {})
    assert vector.shape[1] == shape[0] * pooled[0] * pooled[1] == auxiliary.heads.head.fc.in_features
    assert auxiliary.conv.weight.shape == (shape[0], shape[0], 3, 3) and auxiliary.conv.bias is None


def test_maps_whose_size_no_kernel_divides_are_padded_by_half_a_kernel():
    auxiliary = resnet32('predsim', size=96, max_features=512).backbone.auxiliaries[11]
    x = torch.rand(1, 64, 24, 24)
    padded = F.pad(x, (0, 0, 8, 8))
    means = torch.stack(
        [padded[:, :, 16 * i : 16 * i + 16, 8 * j : 8 * j + 8].mean((2, 3)) for i in range(2) for j in range(3)]
    )
    torch.testing.assert_close(auxiliary(x, {}), means.permute(1, 2, 0).flatten(1))


def naive_similarity(z):
    rows = []
    for sample in z:
        if sample.dim() == 3 and sample.shape[0] > 3 and sample.shape[1] > 1:
            sample = torch.stack([channel.flatten().std() for channel in sample])
        sample = sample.flatten()
        rows.append(sample - sample.mean())
    return torch.tensor([[(a @ b / (a.norm() * b.norm())).item() for b in rows] for a in rows])


@pytest.mark.parametrize('shape', [(5, 7), (4, 6, 5, 5), (4, 3, 5, 5), (4, 6, 1, 5)], ids=str)
def test_similarity_is_the_cosine_of_centred_features(shape):
    z = torch.randn(*shape)
    torch.testing.assert_close(similarity(z), naive_similarity(z).clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_a_constant_map_has_a_finite_gradient():
    x = torch.ones(3, 8, 4, 4, requires_grad=True)
    similarity(x).sum().backward()
    assert x.grad.isfinite().all()


def watched_step(data, model=None, **auxiliary):
    """One step at K = 2; the loss terms, and what they can be computed from."""
    run = Trainer(make(classifier('predsim', 2, model=model, **auxiliary)))
    own, kept = run.model.backbone.auxiliaries[0], {}
    own.conv.register_forward_hook(lambda module, inputs, output: kept.update(x=inputs[0].detach(), z=output.detach()))
    fc = own.heads.head.fc
    kept.update(weight=fc.weight.detach().clone(), bias=fc.bias.detach().clone(), auxiliary=own)
    run.step(data)
    return {name: value.item() for (_, name), value in run.optim_wrapper.local_losses.items()}, kept


@pytest.mark.parametrize('beta', [0.99, 0.5])
def test_the_loss_is_the_weighted_sum_of_both(beta):
    labels = [0, 3, 3, 9]
    terms, kept = watched_step(batch(4, labels=labels), beta=beta)
    logits = kept['auxiliary'](kept['x'], {}) @ kept['weight'].T + kept['bias']
    pred = F.cross_entropy(logits, torch.tensor(labels))
    onehot = torch.eye(10)[labels]
    sim = ((naive_similarity(kept['z']) - naive_similarity(onehot)) ** 2).sum() / 4**2
    assert terms['pred'] == pytest.approx((1 - beta) * pred.item(), rel=1e-4)
    assert terms['sim'] == pytest.approx(beta * sim.item(), rel=1e-3)
    assert terms['total'] == pytest.approx(terms['pred'] + terms['sim'], rel=1e-5)


def test_mixed_classes_are_compared_as_they_are_mixed():
    data = batch(4)
    scores = torch.rand(4, 10).softmax(1)
    for sample, score in zip(data['data_samples'], scores, strict=True):
        sample.set_gt_score(score)
    terms, kept = watched_step(data)
    sim = ((naive_similarity(kept['z']) - naive_similarity(scores)) ** 2).mean()
    assert terms['sim'] == pytest.approx(0.99 * sim.item(), rel=1e-3)


@pytest.mark.parametrize('num_classes', [4, 30])
def test_classes_are_compared_as_one_hot_rows_as_wide_as_the_head(num_classes):
    labels = [0, 3, 3, 1]
    terms, kept = watched_step(
        batch(4, labels=labels),
        model=dict(
            data_preprocessor={**PREPROCESSOR, 'num_classes': num_classes},
            head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=16),
        ),
    )
    # n classes, centred: 1 with itself, -1 / (n - 1) with another
    same = torch.tensor([[a == b for b in labels] for a in labels]).float()
    expected = same - (1 - same) / (num_classes - 1)
    sim = ((naive_similarity(kept['z']) - expected) ** 2).mean()
    assert terms['sim'] == pytest.approx(0.99 * sim.item(), rel=1e-3)


def test_several_classes_an_image_are_compared_as_rows_of_several_ones():
    data = batch(4)
    classes = [[0, 1], [1, 2], [1], [0, 1]]
    data['data_samples'] = [DataSample().set_gt_label(own) for own in classes]
    head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=16)
    terms, kept = watched_step(data, model=dict(head=head))
    rows = torch.stack([torch.eye(10)[own].sum(0) for own in classes])
    sim = ((naive_similarity(kept['z']) - naive_similarity(rows)) ** 2).mean()
    assert terms['sim'] == pytest.approx(0.99 * sim.item(), rel=1e-3)


def test_images_of_another_size_are_refused_with_the_key_to_set():
    with pytest.raises(ValueError, match=r'built for maps \(8, 8, 8\) .* got \(8, 16, 16\): set backbone.probe_size'):
        watched_step(batch(4, size=32))


def test_images_of_another_shape_with_as_many_pixels_are_refused():
    auxiliary = make(classifier('predsim', 2, backbone_probe_size=(8, 32))).backbone.auxiliaries[0]
    assert auxiliary(torch.zeros(2, 8, 4, 16), {}).shape == (2, 64)
    with pytest.raises(ValueError, match=r'built for maps \(8, 4, 16\) .* got \(8, 8, 8\)'):
        auxiliary(torch.zeros(2, 8, 8, 8), {})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(beta=1.5), r'auxiliary.beta=1.5 must be'),
        (dict(max_features=3), r'max_features=3 is less than the 4'),
        (dict(max_features=True), r'max_features=True must be an integer, 1 or more'),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(classifier('predsim', **options))
