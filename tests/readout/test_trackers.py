"""Trackers hold the detector that has the backbone; a loss of two frames trains every module on both."""

import copy

import pytest
import torch
from mmengine.config import Config

from man_mm import localize
from man_mm.analysis.audit import audit_step
from man_mm.analysis.features import unit_names
from man_mm.analysis.planner import make_plan
from man_mm.analysis.step import TrainStep
from man_mm.plain_checkpoint import plain_weights

from ..helpers.detection import PREPROCESSOR, sample
from ..helpers.detection import batch as images
from ..helpers.detectors import detector
from ..helpers.steps import SGD

EMBEDDING = dict(
    type='QuasiDenseEmbedHead',
    num_convs=1,
    num_fcs=1,
    in_channels=8,
    conv_out_channels=8,
    fc_out_channels=8,
    embed_channels=8,
    roi_feat_size=3,
    loss_track=dict(type='MultiPosCrossEntropyLoss'),
    loss_track_aux=dict(type='MarginL2Loss'),
)


def plain_config(kind):
    own = {key: part for key, part in detector('faster_rcnn', None).items() if key != 'data_preprocessor'}
    own = copy.deepcopy(own)
    for part in ('rpn', 'rcnn'):
        own['train_cfg'][part]['sampler']['num'] = 10**4  # all are chosen, none at random
    model = dict(type=kind, detector=own, data_preprocessor={**PREPROCESSOR, 'type': 'TrackDataPreprocessor'})
    if kind == 'QDTrack':
        model['track_head'] = dict(
            type='QuasiDenseTrackHead',
            roi_extractor=own['roi_head']['bbox_roi_extractor'],
            embed_head=EMBEDDING,
            loss_bbox=dict(type='L1Loss'),
            train_cfg=own['train_cfg']['rcnn'],
        )
    else:
        model['data_preprocessor']['use_det_processor'] = True
    return Config(
        copy.deepcopy(dict(default_scope='mmdet', model=model, optim_wrapper=dict(type='OptimWrapper', optimizer=SGD)))
    )


def batch(kind, key=0):
    """Images for a tracker that trains its detector; else pairs of frames, of which frame `key` is the key frame."""
    if kind != 'QDTrack':
        return images()
    from mmdet.structures import TrackDataSample

    inputs, videos = [], []
    for first in (0, 2):
        frames, samples = zip(*(sample(first + i) for i in range(2)), strict=True)
        for number, frame in enumerate(samples):
            frame.set_metainfo(dict(frame_id=number))
            frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances))
        video = TrackDataSample(metainfo=dict(key_frames_inds=[key], ref_frames_inds=[1 - key]))
        video.video_data_samples = list(samples)
        videos.append(video)
        inputs.append(torch.stack(frames))
    return dict(inputs=inputs, data_samples=videos)


def losses(step, data):
    torch.manual_seed(1)
    made = step.model(**step.model.data_preprocessor(data, True), mode='loss')
    return {name: torch.as_tensor(loss).sum().item() for name, loss in made.items()}


def pair(kind, **settings):
    plain, local = TrainStep(plain_config(kind)), TrainStep(localize(plain_config(kind), 3, **settings))
    local.model.load_state_dict(plain.model.state_dict(), strict=False)
    return plain, local


@pytest.mark.parametrize('kind', ['ByteTrack', 'OCSORT', 'QDTrack'])
def test_every_module_is_trained_by_its_own_loss_alone_and_the_plain_model_takes_the_weights(kind):
    plain, local = pair(kind)
    rows = audit_step(local, batch(kind))
    assert not [row for row in rows if row.foreign or row.untrained]
    assert sum('auxiliary' in row.part for row in rows) == 2
    plain.model.load_state_dict(plain_weights(local.model.state_dict()))


@pytest.mark.parametrize('key', [0, 1])
def test_the_losses_on_two_frames_are_upstreams(key):
    plain, local = pair('QDTrack')
    assert losses(local, batch('QDTrack', key)) == pytest.approx(losses(plain, batch('QDTrack', key)), rel=1e-4)


def test_the_two_frames_go_through_the_backbone_at_once():
    _, local = pair('QDTrack')
    shapes = []
    local.model.detector.backbone.conv1.register_forward_hook(lambda _, args, __: shapes.append(tuple(args[0].shape)))
    local(batch('QDTrack'))
    assert shapes[0] == (4, 3, 64, 64)


def test_a_frozen_detector_is_refused():
    cfg = plain_config('QDTrack')
    cfg.model.freeze_detector = True
    with pytest.raises(ValueError, match=r'QDTrack has frozen all of its LocalBackbone \(freeze_detector=True'):
        TrainStep(localize(cfg, 3))


def test_a_plan_is_made_of_a_tracker_that_trains_on_images():
    cfg = localize(plain_config('ByteTrack'), 3)
    cfg.train_dataloader = dict(batch_size=2)
    plan = make_plan(cfg, '1GiB', (64, 64))
    assert plan.cfg.model.detector.backbone.num_modules == 1 and plan.chosen.peak_bytes > 0
    assert unit_names(TrainStep(cfg).model)[0] == 'stem'


def test_lean_recomputes_the_heads_of_the_detector():
    cfg = localize(plain_config('ByteTrack'), 3, lean=True)
    functions = next(hook.functions for hook in cfg.custom_hooks if hook.type == 'man_mm.ActivationCheckpointHook')
    assert 'detector.rpn_head.forward_single' in functions


def test_options_of_the_detectors_backbone_are_those_of_the_plain_config():
    cfg = plain_config('QDTrack')
    cfg.merge_from_dict({'model.detector.backbone.depth': 34})
    assert localize(cfg, 4).model.detector.backbone.backbone.depth == 34
