"""Models that are not served say so, and why, before anything else is found amiss in them."""

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import SwAV

from man_mm.config import local_learning
from man_mm.engine import FeatureBankHook, LocalOptimWrapper
from man_mm.readout import HostTask, Readout, register_readout

from ..helpers.classification import classifier
from ..helpers.detection import PREPROCESSOR
from ..helpers.detectors import detector
from ..helpers.restoration import editor

CONTRASTIVE = dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'))
PROJECTION = dict(in_channels=16, hid_channels=4, out_channels=4)
SELF_SUPERVISED = {
    'MoCo': dict(neck=dict(type='MoCoV2Neck', **PROJECTION), head=CONTRASTIVE, queue_len=8, feat_dim=4),
    'DenseCL': dict(neck=dict(type='DenseCLNeck', **PROJECTION), head=CONTRASTIVE, queue_len=8, feat_dim=4),
    'SwAV': dict(
        neck=dict(type='SwAVNeck', with_avg_pool=True, **PROJECTION),
        head=dict(type='SwAVHead', loss=dict(type='SwAVLoss', feat_dim=4, num_prototypes=4)),
    ),
}


def bind(cfg, scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(cfg))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    FeatureBankHook().bind(model, LocalOptimWrapper(optimizer=optimizer))
    return model


def self_supervised(name, num_modules=3, **auxiliary):
    options = {**dict(head='shared', bank_vectors=False), **auxiliary}
    net = classifier('man', num_modules, **options)['backbone']
    return dict(type=name, backbone=net, data_preprocessor=None, **SELF_SUPERVISED[name])


@pytest.mark.parametrize('head', [{}, dict(head='private', bank_vectors=True)], ids=['shared', 'private'])
@pytest.mark.parametrize('name', SELF_SUPERVISED)
def test_self_supervised_models(name, head):
    with pytest.raises(ValueError, match=rf'^model.type={name} is not served by local learning: it is self-supervised'):
        bind(self_supervised(name, **head), 'mmpretrain')


def test_one_module_is_plain_training_of_any_model():
    bind(self_supervised('MoCo', num_modules=1), 'mmpretrain')


@register_readout(f'{__name__}.OwnSwAV')
class OwnReadout(Readout):
    task_type = HostTask


class OwnSwAV(SwAV):
    pass


def test_a_readout_of_ones_own_serves_what_we_do_not():
    bind({**self_supervised('SwAV'), 'type': OwnSwAV}, 'mmpretrain')


def test_a_teacher_and_a_student():
    own = {**detector('faster_rcnn'), 'data_preprocessor': PREPROCESSOR}
    cfg = dict(type='SoftTeacher', detector=own, semi_train_cfg=dict(freeze_teacher=True))
    cfg['data_preprocessor'] = dict(type='MultiBranchDataPreprocessor', data_preprocessor=PREPROCESSOR)
    with pytest.raises(ValueError, match=r'^model.type=SoftTeacher is not served by local learning: it is semi-super'):
        bind(cfg, 'mmdet')


def test_a_tracker_of_another_kind():
    cfg = dict(type='DeepSORT', detector=detector('faster_rcnn'))
    cfg['data_preprocessor'] = {**PREPROCESSOR, 'type': 'TrackDataPreprocessor'}
    with pytest.raises(ValueError, match=r'^model.type=DeepSORT is not served by local learning: it is a tracker'):
        bind(cfg, 'mmdet')


def test_a_retriever():
    net = classifier('man', 3, bank_vectors=False, head='shared')['backbone']
    cfg = dict(
        type='ImageToImageRetriever', image_encoder=net, head=dict(type='LinearClsHead', num_classes=2, in_channels=16)
    )
    with pytest.raises(ValueError, match=r'^model.type=ImageToImageRetriever is not served .* it is a retriever'):
        bind({**cfg, 'prototype': torch.zeros(2, 16)}, 'mmpretrain')


def test_an_inpainter():
    net = editor()['generator']
    cfg = dict(type='OneStageInpaintor', data_preprocessor=dict(type='DataPreprocessor'), encdec=net)
    with pytest.raises(ValueError, match=r'^model.type=OneStageInpaintor is not served .* it is an inpainter'):
        bind(cfg, 'mmagic')


def test_a_base_without_a_backbone_names_its_model_and_parts():
    model = dict(
        type='AOTInpaintor', encdec=dict(type='AOTEncoderDecoder'), disc=dict(type='SoftMaskPatchDiscriminator')
    )
    base = Config(dict(model=model))
    with pytest.raises(
        ValueError, match=r"model.type='AOTInpaintor' is not served.*but the parts \['disc', 'encdec'\]"
    ):
        local_learning(base, num_modules=4, auxiliary=dict(type='man_mm.SLM'))
