"""Leaving is free: a published checkpoint is the plain model's, for every door that upstream offers."""

import copy
import hashlib
import runpy
import sys

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmpretrain import inference_model
from mmpretrain.structures import DataSample
from torch import nn

from ..helpers import classification, restoration
from ..helpers.detection import build, images, retinanet
from ..helpers.processes import ROOT
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import assert_equal

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
ZOO = 'resnet18_8xb16_cifar10'
"""A model that MMPretrain knows by its name."""


def publish(monkeypatch, *arguments):
    """Run the tool in this process; returns the files beside its output."""
    script = str(ROOT / 'tools/model_converters/publish_model.py')
    monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
    runpy.run_path(script, run_name='__main__')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of one epoch with an EMA, the model that wrote it and the averaged one."""
    folder = tmp_path_factory.mktemp('trained')
    run = runner(run_config(make_coco(folder / 'coco'), folder, epochs=1, hooks=[dict(type='EMAHook', momentum=0.5)]))
    run.train()
    ema = next(hook for hook in run.hooks if type(hook).__name__ == 'EMAHook')
    return folder / 'epoch_1.pth', run.model.state_dict(), ema.ema_model.module.state_dict()


@pytest.fixture(scope='module')
def published(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('published')
    with pytest.MonkeyPatch.context() as patch:
        publish(patch, trained[0], folder / 'model.pth')
    (file,) = folder.glob('*')
    return file


def test_a_published_file_carries_its_own_hash_and_holds_meta_and_weights_alone(published, trained):
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert published.name == f'model-{digest[:8]}.pth'
    assert set(torch.load(trained[0])) > {'optimizer', 'ema_state_dict'}
    assert set(torch.load(published)) == {'meta', 'state_dict'}


def test_published_are_the_averaged_weights_under_the_keys_of_the_plain_model(published, trained):
    weights = torch.load(published)['state_dict']
    _, raw, averaged = trained
    plain = build(retinanet(None))
    plain.load_state_dict(weights, strict=True)
    assert any('auxiliaries' in key for key in averaged)
    assert_equal(plain.state_dict(), {key: value for key, value in averaged.items() if 'auxiliaries' not in key})
    assert not torch.equal(weights['backbone.conv1.weight'], raw['backbone.conv1.weight'])


def test_what_a_user_put_into_a_checkpoint_is_not_lost_silently(trained, tmp_path, monkeypatch):
    torch.save({**torch.load(trained[0]), 'prices': torch.ones(1)}, tmp_path / 'in.pth')
    with pytest.raises(SystemExit, match=r"\['prices'\], which MMEngine does not write.*--save-keys"):
        publish(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth')
    with pytest.raises(SystemExit, match=r"has no \['weights'\]"):
        publish(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth', '--save-keys', 'weights', 'prices')
    assert [file.name for file in tmp_path.glob('*')] == ['in.pth']
    publish(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth', '--save-keys', 'meta', 'state_dict', 'prices')
    assert 'prices' in torch.load(next(tmp_path.glob('out-*.pth')))


def detector_config(model, root):
    """A config as `init_detector` needs it."""
    cfg = Config(run_config(root, root, model=model))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    cfg.test_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg.test_dataloader.dataset.pipeline = pipeline
    return cfg


def test_upstreams_detector_predicts_the_same_to_the_bit_from_the_published_file(published, trained):
    root = str(trained[0].parent / 'coco') + '/'
    plain = init_detector(detector_config(retinanet(None), root), str(published), device='cpu')
    local = init_detector(detector_config(retinanet(4), root), str(trained[0]), device='cpu')
    assert plain.dataset_meta == local.dataset_meta
    ours, theirs = (inference_detector(model, IMAGE).pred_instances for model in (local, plain))
    assert len(theirs) > 0
    assert_equal(dict(ours.items()), dict(theirs.items()))


def test_upstreams_classifier_scores_the_same_to_the_bit_from_the_published_file(tmp_path, monkeypatch):
    cfg = get_config(f'mmpretrain::resnet/{ZOO}.py')
    cfg.model.backbone = dict(
        type='man_mm.LocalBackbone', backbone=cfg.model.backbone, num_modules=2, auxiliary=dict(type='man_mm.DGL')
    )
    local = classification.make({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}).eval()
    torch.save(dict(meta={}, state_dict=local.state_dict()), tmp_path / 'in.pth')
    publish(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth')
    file = str(next(tmp_path.glob('out-*.pth')))
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # `init_detector` leaves its own behind
        scores = inference_model(ZOO, IMAGE, pretrained=file, device='cpu')['pred_scores']
    data = dict(inputs=[torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())], data_samples=[DataSample()])
    with torch.no_grad():
        assert np.array_equal(scores, local.test_step(data)[0].pred_score.numpy())


def test_a_published_editor_restores_the_same_to_the_bit(tmp_path, monkeypatch):
    """By the model itself: `mmagic.apis`, its inferencer, does not import beside the mediapipe of the set-up."""
    local, plain = (restoration.make(restoration.editor(num_modules=k), seed=i).eval() for i, k in enumerate((3, None)))
    torch.save(dict(meta={}, state_dict=local.state_dict()), tmp_path / 'in.pth')
    publish(monkeypatch, tmp_path / 'in.pth', tmp_path / 'out.pth')
    plain.load_state_dict(torch.load(next(tmp_path.glob('out-*.pth')))['state_dict'], strict=True)
    with torch.no_grad():
        ours, theirs = (model.test_step(restoration.batch()) for model in (local, plain))
    assert all(torch.equal(a.output.pred_img, b.output.pred_img) for a, b in zip(ours, theirs, strict=True))


class Tensors(nn.Module):
    """A detector's `tensor` mode, with a flat result, as exporters ask for it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return tuple(level for levels in self.model(inputs, mode='tensor') for level in levels)


@pytest.mark.parametrize('form', ['torchscript', 'export', 'onnx'])
def test_an_exported_plain_model_computes_what_the_trained_one_does(form, published, trained, tmp_path):
    plain, local = build(retinanet(None)).eval(), build(retinanet(4)).eval()
    plain.load_state_dict(torch.load(published)['state_dict'], strict=True)
    local.load_state_dict(torch.load(trained[0])['state_dict'], strict=True)
    x = images(1)
    with torch.no_grad():
        wanted = Tensors(local)(x)
        if form == 'torchscript':
            torch.jit.trace(Tensors(plain), x).save(tmp_path / 'plain.pt')
            got = torch.jit.load(tmp_path / 'plain.pt')(x)
        elif form == 'export':
            got = torch.export.export(Tensors(plain), (x,)).module()(x)
        else:
            onnxruntime = pytest.importorskip('onnxruntime', reason='it is not part of the set-up')
            torch.onnx.export(Tensors(plain), (x,), tmp_path / 'plain.onnx', dynamo=False)
            session = onnxruntime.InferenceSession(tmp_path / 'plain.onnx')
            got = [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]
    tolerance = dict(rtol=1e-4, atol=1e-5) if form == 'onnx' else dict(rtol=0, atol=0)
    assert len(got) == len(wanted) == 8  # scores and boxes of four levels
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_inference_costs_the_flops_of_the_plain_model():
    counts = []
    for num_modules in (None, 4):
        model = build(retinanet(num_modules)).eval()
        result = get_model_complexity_info(model, inputs=(images(1),), show_table=False, show_arch=False)
        counts.append(result['flops'])
    assert counts[0] == counts[1] > 0
