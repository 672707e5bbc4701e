"""MMPretrain's classifiers: heads, losses and mixed batches are the host's own."""

import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch.nn import functional as F

from ..helpers.classification import batch, classifier, make
from ..helpers.detection import build
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')

RESNET18 = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
POOL = dict(type='GlobalAveragePooling')
LINEAR = dict(type='LinearClsHead', num_classes=10, in_channels=64)
SMOOTH = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
MIXUP = dict(augments=dict(type='Mixup', alpha=0.8))
HOSTS = {
    'resnet': (RESNET18, POOL, LINEAR, {}),
    'label smoothing': (RESNET18, POOL, dict(LINEAR, loss=SMOOTH), {}),
    'mixup': (RESNET18, POOL, LINEAR, dict(train_cfg=MIXUP)),
    'stacked head': (RESNET18, POOL, dict(LINEAR, type='StackedLinearClsHead', mid_channels=[12]), {}),
    'vit': (VIT, None, dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16), {}),
    'vit, hidden': (VIT, None, dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16, hidden_dim=8), {}),
    'vit, mixup': (
        dict(VIT, out_type='avg_featmap', with_cls_token=False),
        None,
        dict(LINEAR, in_channels=16, loss=SMOOTH),
        dict(train_cfg=MIXUP),
    ),
}


def host(name, head='private', num_modules=3, **options):
    net, neck, head_cfg, more = HOSTS[name]
    cfg = classifier('man', num_modules, model=dict(neck=neck, head=head_cfg, **more), head=head, bank_vectors=False)
    cfg['backbone'].update(backbone=net, probe_size=(32, 32), **options)
    return cfg


@pytest.mark.parametrize('head', ['private', 'shared'])
@pytest.mark.parametrize('name', HOSTS)
def test_every_part_of_a_classifier_trains(name, head):
    run = Trainer(make(host(name, head)))
    run.step(batch(4, size=32))
    assert set(run.gradients) == {key for key, p in run.model.named_parameters() if p.requires_grad}
    assert all(value.isfinite() for value in run.optim_wrapper.local_losses.values())


def test_a_multi_label_classifier_trains():
    cfg = host('resnet')
    cfg['head'] = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    data = batch(4, size=32)
    data['data_samples'] = [DataSample().set_gt_label([i, i + 1]) for i in range(4)]
    for sample in data['data_samples']:
        sample.set_field(torch.eye(10)[sample.gt_label].sum(0), 'gt_score')
    run = Trainer(make(cfg))
    run.step(data)
    assert set(run.gradients) == {key for key, _ in run.model.named_parameters()}


@pytest.mark.parametrize('head', ['private', 'shared'])
def test_local_losses_are_the_cross_entropy_of_the_head_that_reads_them(head):
    run = Trainer(make(host('resnet', head)))
    kept = []
    for auxiliary in run.model.backbone.auxiliaries:
        own = auxiliary.heads.head if head == 'private' else run.model.head
        weight, bias = own.fc.weight.detach().clone(), own.fc.bias.detach().clone()
        auxiliary.register_forward_hook(
            lambda module, inputs, output, w=weight, b=bias: kept.append(
                F.cross_entropy(output[-1].detach().mean((2, 3)) @ w.T + b, torch.arange(4))
            )
        )
    run.step(batch(4, size=32))
    for module, expected in enumerate(kept):
        assert run.optim_wrapper.local_losses[module, 'total'].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('name', ['resnet', 'vit'])
def test_prediction_is_the_plain_models(name):
    model = make(host(name))
    net, neck, head_cfg, _ = HOSTS[name]
    cfg = classifier(model=dict(neck=neck, head=head_cfg))
    cfg['backbone'] = net
    plain = make(cfg, seed=3)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if '.auxiliaries.' not in k}, strict=True)
    model.eval(), plain.eval()
    data = batch(3, size=32)
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmpretrain'):
        ours, theirs = model.test_step(copy.deepcopy(data)), plain.test_step(copy.deepcopy(data))
    assert all(torch.equal(a.pred_score, b.pred_score) for a, b in zip(ours, theirs, strict=True))


def test_images_come_back_as_the_pixels_they_were():
    run = Trainer(make(classifier('infopro', 2)))
    data = batch(3)
    seen = []
    decoder = run.model.backbone.auxiliaries[0]
    losses = decoder.local_losses
    decoder.local_losses = lambda x, taps, task: seen.append(task.images()) or losses(x, taps, task)
    run.step(data)
    torch.testing.assert_close(seen[0], torch.stack(data['inputs']) / 255, rtol=0, atol=1e-6)


def test_rules_for_classification_are_refused_by_a_detector_with_their_names():
    from ..helpers.detection import batch as boxes
    from ..helpers.detection import build, retinanet

    cfg = retinanet(2, backbone=dict(out_indices=(0, 1, 2, 3)))
    cfg['backbone']['auxiliary'] = dict(
        type='man_mm.InfoPro', lambda1=(1.0, 1.0), lambda2=(1.0, 1.0), estimator='contrast'
    )
    with pytest.raises(ValueError, match=r'RetinaNet has no class of an image.*man_mm.InfoPro'):
        Trainer(build(cfg)).step(boxes())


def test_a_model_that_re_identifies_trains_on_a_batch_of_frames():
    from mmdet.structures import ReIDDataSample

    cfg = host('resnet', 'shared')
    head = dict(type='LinearReIDHead', num_fcs=1, in_channels=64, fc_channels=16, out_channels=8, num_classes=4)
    head.update(
        loss_cls=dict(type='mmpretrain.CrossEntropyLoss'),
        loss_triplet=dict(type='TripletLoss'),
        norm_cfg=dict(type='BN1d'),
        act_cfg=dict(type='ReLU'),
    )
    cfg.update(
        type='BaseReID', head=head, data_preprocessor=dict(type='ReIDDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3)
    )
    cfg['neck'] = dict(type='GlobalAveragePooling', kernel_size=1)
    cfg['backbone']['backbone'] = dict(RESNET18, type='mmpretrain.ResNet')
    data = batch(4, size=32)
    images = torch.stack(data['inputs'])
    run = Trainer(build(cfg))
    run.step(dict(inputs=[images], data_samples=[ReIDDataSample().set_gt_label([0, 0, 1, 1])]))
    assert run.optim_wrapper.local_losses and set(run.gradients) == {key for key, _ in run.model.named_parameters()}
    with pytest.raises(ValueError, match=r'labels \[7\] are out of range'):
        run.step(dict(inputs=[images], data_samples=[ReIDDataSample().set_gt_label([0, 0, 7, 1])]))
