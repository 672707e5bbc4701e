"""Single-stage, two-stage and DETR-style detectors train locally, with the model's own code for their losses."""

import math
import re

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.optim import OptimWrapper

from man_mm.readout.mmdet import _fit

from ..helpers.backbones import MAPS
from ..helpers.detection import ASSIGNER, BOXES, FPN, PREPROCESSOR, RETINA_HEAD, batch, build, retinanet
from ..helpers.detectors import ANCHORS, DETECTORS, detector
from ..helpers.training import Trainer, assert_equal, named, reached, trainer


@pytest.mark.parametrize('head', ['shared', 'private'])
@pytest.mark.parametrize('name', ['retinanet', *DETECTORS])
def test_every_parameter_that_upstream_trains_gets_a_gradient_in_model_and_auxiliaries(name, head):
    run = Trainer(build(detector(name, head=head)))
    logs = run.step()
    assert all(torch.isfinite(value) for value in logs.values())
    plain = bp_gradients(name)
    without = named(run.model, '') - run.gradients.keys()
    assert {upstream_name(key) for key in run.gradients} >= plain
    assert not {upstream_name(key) for key in without} & plain  # e.g. a neck's unused level stays unused


def upstream_name(key):
    """The plain model's name of a parameter, or of the one that an auxiliary's mirrors."""
    for pattern in (r'^backbone\.backbone\.', r'^backbone\.auxiliaries\.\d+\.layers\.'):
        key = re.sub(pattern, 'backbone.', key)
    return re.sub(r'^backbone\.auxiliaries\.\d+\.(heads\.)?', '', key)


def bp_gradients(name):
    """Parameters that get a gradient from one step of the plain upstream model."""
    model = build(detector(name, None)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = set()
    optimizer.register_step_pre_hook(
        lambda *_: found.update(n for n, p in model.named_parameters() if p.grad is not None)
    )
    model.train_step(batch(), OptimWrapper(optimizer=optimizer))
    return found


@pytest.mark.parametrize('name', ['retinanet', *DETECTORS])
def test_private_heads_are_trained_by_their_own_module_only(name):
    model = build(detector(name, head='private'))
    run = Trainer(model)
    plain, seen = run.optim_wrapper.local_backward, []

    def local_backward(losses, module):
        seen.append(reached(model.parse_losses(losses)[0], model))
        plain(losses, module)

    run.optim_wrapper.local_backward = local_backward
    run.step()
    direct = {key for key, _ in model.named_parameters(recurse=False)}  # e.g. Deformable DETR's level embedding
    heads = [key for key, _ in model.named_children() if key not in ('backbone', 'neck', 'data_preprocessor')]
    for module, found in enumerate(seen):
        own = {key for key in found if f'auxiliaries.{module}.' in key or key.startswith('backbone.backbone.')}
        assert found - own <= direct
        assert {key.split('.')[4] for key in found if '.heads.' in key} <= set(heads)
        assert any('.heads.' in key for key in found)


@pytest.mark.parametrize('name', ['retinanet', *DETECTORS])
def test_targets_are_not_changed_by_local_losses(name):
    data = batch()
    before = [sample.gt_instances.clone() for sample in data['data_samples']]
    Trainer(build(detector(name))).step(data)
    for sample, old in zip(data['data_samples'], before, strict=True):
        assert torch.equal(sample.gt_instances.bboxes, old.bboxes)
        assert torch.equal(sample.gt_instances.labels, old.labels)
    assert len(before[0]) == len(BOXES)


def test_a_head_of_its_own_config_trains_the_module_in_place_of_the_models():
    light = {**RETINA_HEAD, 'feat_channels': 4, 'stacked_convs': 2}
    run = trainer(3, auxiliary=dict(head=dict(bbox_head=light)))
    heads = [auxiliary.heads.bbox_head for auxiliary in run.model.backbone.auxiliaries]
    assert [len(head.cls_convs) for head in heads] == [2, 2]
    assert heads[0].train_cfg is run.model.bbox_head.train_cfg
    run.step()
    assert run.gradients.keys() == named(run.model, '')
    assert run.model.bbox_head.feat_channels == 8 and len(run.model.bbox_head.cls_convs) == 1


def test_the_model_is_itself_again_after_a_step():
    run = trainer(4, auxiliary=dict(head='private'))
    names, head = [name for name, _ in run.model.named_children()], run.model.bbox_head
    run.step()
    assert [name for name, _ in run.model.named_children()] == names
    assert run.model.bbox_head is head and 'extract_feat' not in vars(run.model)
    assert all(p.requires_grad for p in run.model.parameters())


@pytest.mark.parametrize('rule', ['sum', 'last'])
def test_the_model_is_itself_again_after_an_exception_in_a_local_loss(rule):
    run = trainer(4, auxiliary=dict(head='private', shared_head_grad=rule))
    head = run.model.bbox_head
    trained = named(run.model, '')

    def fail(*_):
        raise RuntimeError('out of memory')

    handle = run.model.backbone.auxiliaries[0].heads.bbox_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        run.step()
    assert run.model.bbox_head is head and 'extract_feat' not in vars(run.model)
    assert named(run.model, '') == trained
    handle.remove()
    run.step()


def test_the_detached_head_copies_start_apart():
    model = build(retinanet(3, auxiliary=dict(head='private')))
    heads = [auxiliary.heads.bbox_head for auxiliary in model.backbone.auxiliaries]
    weights = [dict(head.state_dict()) for head in (model.bbox_head, *heads)]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    assert_equal(
        {k: v.new_tensor(v.shape) for k, v in weights[0].items()},
        {k: v.new_tensor(v.shape) for k, v in weights[1].items()},
    )
    assert not {id(p) for p in heads[0].parameters()} & {id(p) for p in model.bbox_head.parameters()}


@pytest.mark.parametrize(
    ('auxiliary', 'message'),
    [
        (
            dict(neck={**FPN, 'num_outs': 3}),
            r'model\.bbox_head .* 4 levels, .*\[8, 16, 32, 64\].* auxiliary\.neck',
        ),
        (
            dict(head=dict(bbox_head={**RETINA_HEAD, 'anchor_generator': {**ANCHORS, 'strides': [8, 16, 32]}})),
            r'auxiliary\.head\.bbox_head has priors for 3 levels, .*\[8, 16, 32\] px, but auxiliary\.neck\.num_outs=4',
        ),
    ],
    ids=['neck', 'head'],
)
def test_a_head_of_other_strides_than_the_neck_gives_is_refused_before_training(auxiliary, message):
    with pytest.raises(ValueError, match=message):
        Trainer(build(detector('retinanet', **auxiliary)))


@pytest.mark.parametrize('neck', [{**FPN, 'start_level': 0}, [{**FPN, 'start_level': 0}]], ids=['neck', 'list'])
def test_maps_of_other_strides_than_the_priors_are_refused_before_a_step(neck):
    run = Trainer(build(detector('retinanet', neck=neck)))
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r'model\.bbox_head has priors of strides .* \[8, 4, 2, 1\] high, .*start_level'
    ):
        run.step()
    assert_equal(dict(run.model.state_dict()), before)


MAN, DGL = {}, dict(type='man_mm.DGLPyramid', channels=8, head='private')


@pytest.mark.parametrize(
    ('divisor', 'auxiliary', 'size'),
    [
        *((1, MAN, size) for size in (33, 50, 64, 96)),
        *((1, DGL, size) for size in (33, 64)),
        (32, MAN, 50),
        (32, DGL, 96),
    ],
    ids=str,
)
def test_images_of_every_size_fit_their_strides(size, auxiliary, divisor):
    cfg = retinanet(9, auxiliary=auxiliary)
    cfg['data_preprocessor'] = {**PREPROCESSOR, 'pad_size_divisor': divisor}
    Trainer(build(cfg)).step(batch(size=size, boxes=((4.0, 6.0, 28.0, 30.0),)))


def with_masks(size):
    data = batch(size=size)
    for sample in data['data_samples']:
        masks = np.zeros((len(sample.gt_instances), size, size), dtype=np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, sample.gt_instances.bboxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        sample.gt_instances.masks = BitmapMasks(masks, size, size)
    return data


CONDINST_MASKS = dict(
    type='CondInstMaskHead',
    num_layers=3,
    feat_channels=8,
    mask_out_stride=4,
    size_of_interest=8,
    max_masks_to_train=300,
    mask_feature_head=dict(
        in_channels=8,
        feat_channels=8,
        start_level=0,
        end_level=2,
        out_channels=8,
        mask_stride=8,
        num_stacked_convs=1,
        norm_cfg=dict(type='BN'),
    ),
    loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True, eps=5e-6),
)


@pytest.mark.parametrize('head', ['shared', 'private'])
def test_priors_of_masks_are_no_levels_of_the_pyramid(head):
    cfg = detector('fcos', head=head)
    cfg.update(type='CondInst', mask_head=CONDINST_MASKS, train_cfg=None)
    cfg['data_preprocessor'] = {**PREPROCESSOR, 'pad_mask': True}
    cfg['bbox_head'] = {**cfg['bbox_head'], 'type': 'CondInstBboxHead', 'num_params': 169, 'norm_on_bbox': True}
    cfg['bbox_head'].update(centerness_on_reg=True, center_sampling=True, conv_bias=True)
    run = Trainer(build(cfg))
    logs = run.step(with_masks(64))
    assert logs['loss_mask'].isfinite() and run.gradients.keys() == named(run.model, '')


@pytest.mark.parametrize('size', [550, 138])
def test_strides_that_are_no_whole_numbers(size):
    cells = [69, 35, 18, 9, 5]
    strides = [550.0 / x for x in cells]
    heights = [math.ceil(round(size / stride, 3)) for stride in strides]
    assert _fit(strides, size, cells if size == 550 else heights)
    assert not _fit(strides, size, [heights[0] - 1, *heights[1:]])


@pytest.mark.parametrize('size', [100, 75])
def test_backbones_that_drop_a_border_train_as_upstream(size):
    """ConvNeXt makes maps of floor(size / stride) px, where the strides of priors tell the ceiling."""
    data = batch(size=size, boxes=((4.0, 6.0, 28.0, 30.0),))
    preprocessor = {**PREPROCESSOR, 'pad_size_divisor': 1}
    net = dict(MAPS, drop_path_rate=0.0)
    plain = build({**retinanet(None), 'data_preprocessor': preprocessor, 'backbone': net}).train()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.0)
    expected = {}
    sgd.register_step_pre_hook(
        lambda *_: expected.update({n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None})
    )
    plain.train_step(data, OptimWrapper(optimizer=sgd))
    for num_modules in (1, 4):
        cfg = {**retinanet(num_modules), 'data_preprocessor': preprocessor}
        run = Trainer(build({**cfg, 'backbone': {**cfg['backbone'], 'backbone': net}}))
        run.step(data)
        if num_modules == 1:
            assert_equal({upstream_name(key): grad for key, grad in run.gradients.items()}, expected)
    assert {upstream_name(key) for key in run.gradients} == expected.keys() and len(run.optim_wrapper.local_losses) > 3


@pytest.mark.parametrize('cuts', [['layer1.1', 'layer2.1', 'layer3.1'], ['layer2.1'], ['layer3.1']], ids=str)
def test_cuts_at_the_ends_of_stages_leave_the_next_stages_to_the_small_model(cuts):
    model = build(retinanet(len(cuts) + 1, partition=cuts))
    for auxiliary, cut in zip(model.backbone.auxiliaries, cuts, strict=True):
        later = [f'layer{i}' for i in range(int(cut[5]) + 1, 5)]
        assert [unit.stage for unit in auxiliary.units] == later
    run = Trainer(model)
    run.step()
    assert run.gradients.keys() == named(model, '')


def test_crowds_are_left_out_of_local_losses_as_of_the_main_one():
    def losses(threshold, crowd):
        cfg = retinanet(4)
        cfg['train_cfg'] = {**cfg['train_cfg'], 'assigner': {**ASSIGNER, 'ignore_iof_thr': threshold}}
        data = batch()
        for sample in data['data_samples']:
            if crowd:
                sample.ignored_instances.bboxes = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
                sample.ignored_instances.labels = torch.zeros(1, dtype=torch.long)
        run = Trainer(build(cfg))
        logs = run.step(data)
        return [logs['loss_cls'], *(run.optim_wrapper.local_losses[module, 'cls'] for module in range(3))]

    plain = losses(-1, crowd=False)
    assert all(torch.equal(a, b) for a, b in zip(losses(-1, crowd=True), plain, strict=True))  # RetinaNet's own way
    assert all(a != b for a, b in zip(losses(0.5, crowd=True), plain, strict=True))
