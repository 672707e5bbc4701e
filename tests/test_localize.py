"""`localize` makes a locally trained config of any plain one, keeps what it has, and so do the command lines."""

import copy
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config

import man_mm
from man_mm.analysis.step import TrainStep
from man_mm.config import lost_keys
from man_mm.light_parts import light_parts
from man_mm.localizing import choose_keys
from man_mm.runs.compat import read_config

from .helpers import classification, detection, restoration
from .helpers.detectors import DETECTORS, detector
from .helpers.processes import ROOT, python
from .helpers.runs import make_coco, run_config, write_config
from .helpers.steps import step_config

DETECTOR = detection.retinanet(None)
WIDE = dict(
    DETECTOR,
    neck=dict(detection.FPN, out_channels=96),
    bbox_head=dict(detection.RETINA_HEAD, in_channels=96, feat_channels=96, stacked_convs=2),
)
TWO_STAGE = detector('faster_rcnn', None)
WIDE_TWO_STAGE = dict(
    TWO_STAGE,
    neck=dict(TWO_STAGE['neck'], out_channels=80),
    rpn_head=dict(TWO_STAGE['rpn_head'], in_channels=80, feat_channels=80),
    roi_head=dict(
        TWO_STAGE['roi_head'],
        bbox_roi_extractor=dict(TWO_STAGE['roi_head']['bbox_roi_extractor'], out_channels=80),
        bbox_head=dict(TWO_STAGE['roi_head']['bbox_head'], in_channels=80, fc_out_channels=512),
    ),
)
HOSTS = {
    'detector': (DETECTOR, 'mmdet', detection.batch, 'SLM', 'SlimSLM'),
    'wide detector': (WIDE, 'mmdet', detection.batch, 'SLM', 'SlimSLM'),
    'wide two-stage detector': (WIDE_TWO_STAGE, 'mmdet', detection.batch, 'SLM', 'SlimSLM'),
    **{name: (detector(name, None), 'mmdet', detection.batch, 'SLM', 'SlimSLM') for name in DETECTORS},
    'classifier': (classification.classifier(), 'mmpretrain', classification.batch, 'SLM', 'SLM'),
    'edsr': (restoration.editor(num_modules=None), 'mmagic', restoration.batch, 'SLM', 'SLM'),
    'swinir': (restoration.editor('swinir', num_modules=None), 'mmagic', restoration.batch, 'SLM', 'SLM'),
}


SHORT = [
    pytest.param(name, marks=pytest.mark.long) if name in ('wide detector', 'detr', 'swinir') else name
    for name in HOSTS
]
"""Their forms differ from those of the others by widths and depths."""


def plain(host='detector', hooks=(), **wrapper):
    model, scope, *_ = HOSTS[host]
    return step_config(copy.deepcopy(model), scope, hooks=hooks, **wrapper)


def net_of(cfg):
    return cfg.model.get('generator') or cfg.model.backbone


@pytest.mark.parametrize('lean', [False, True], ids=['whole', 'lean'])
@pytest.mark.parametrize('host', SHORT)
def test_every_host_gets_a_form_that_trains(host, lean):
    _, _, batch, whole, slim = HOSTS[host]
    cfg = man_mm.localize(plain(host), num_modules=3, lean=lean)
    assert net_of(cfg).auxiliary.type == f'man_mm.{slim if lean else whole}'
    step = TrainStep(cfg)
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    step(batch())
    moved = {name for name, p in step.model.named_parameters() if not p.equal(before[name])}
    assert step.local_backbone.num_modules == 3
    for module in step.local_backbone.local_modules:
        own = set(map(id, module.parameters(step.local_backbone.backbone)))
        assert any(id(p) in own for name, p in step.model.named_parameters() if name in moved)


def test_the_plain_config_is_not_changed():
    cfg, before = plain(), plain()
    man_mm.localize(cfg, lean=True)
    assert cfg.to_dict() == before.to_dict()


def test_hooks_precision_accumulation_and_clipping_stay():
    wrapper = dict(dtype='bfloat16', accumulative_counts=2, clip_grad=dict(max_norm=35))
    cfg = plain(hooks=[dict(type='EMAHook')], **wrapper)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1)]
    for lean in (False, True):
        local = man_mm.localize(cfg, num_modules=3, lean=lean)
        assert local.optim_wrapper == {**cfg.optim_wrapper, 'type': 'man_mm.LocalAmpOptimWrapper'}
        assert local.custom_hooks[:2] == [dict(type='EMAHook'), dict(type='man_mm.FeatureBankHook')]
        assert local.param_scheduler == cfg.param_scheduler


def test_a_base_whose_hooks_have_priorities_can_be_measured():
    cfg = man_mm.localize(plain(hooks=[dict(type='EMAHook', priority=49)]), num_modules=3)
    assert cfg.custom_hooks[0].priority == 49
    TrainStep(cfg)(detection.batch())


def test_lean_makes_wide_necks_and_heads_light_and_recomputes_the_models_own():
    cfg = man_mm.localize(plain('wide detector'), num_modules=3, lean=True)
    auxiliary = cfg.model.backbone.auxiliary
    assert (auxiliary.neck.out_channels, auxiliary.head.bbox_head.in_channels) == (64, 64)
    assert auxiliary.head.bbox_head.stacked_convs == 1 and cfg.model.bbox_head.stacked_convs == 2
    assert cfg.custom_hooks[-1].functions == ['bbox_head.forward_single', 'bbox_head.loss_by_feat_single']
    assert cfg.optim_wrapper.eager_step and cfg.model_wrapper_cfg.type == 'man_mm.LocalDistributedDataParallel'


def test_lean_makes_both_stages_light():
    cfg = man_mm.localize(plain('wide two-stage detector'), num_modules=3, lean=True)
    head = cfg.model.backbone.auxiliary.head
    assert (head.rpn_head.in_channels, head.rpn_head.feat_channels) == (64, 64)
    assert (head.roi_head.bbox_roi_extractor.out_channels, head.roi_head.bbox_head.in_channels) == (64, 64)
    assert (head.roi_head.bbox_head.fc_out_channels, cfg.model.roi_head.bbox_head.fc_out_channels) == (256, 512)
    assert cfg.custom_hooks[-1].functions == ['rpn_head.forward_single', 'rpn_head.loss_by_feat_single']


def test_heads_that_name_their_width_otherwise_are_not_made_light():
    assert light_parts(read_config('mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py').model) is None


def test_a_light_cascade_has_one_stage():
    model = read_config('mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py').model
    head = light_parts(model)['head']['roi_head']
    assert head.num_stages == 1 and head.bbox_head.in_channels == 64 and head.mask_head.num_convs == 1
    assert len(model.roi_head.bbox_head) == 3 and model.roi_head.mask_head.num_convs == 4


def test_a_multiplier_of_the_backbone_does_not_reach_auxiliaries():
    cfg = plain(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
    keys = man_mm.localize(cfg, num_modules=3).optim_wrapper.paramwise_cfg.custom_keys
    assert keys == {'backbone': dict(lr_mult=0.1), 'backbone.auxiliaries': dict(lr_mult=1.0)}


def test_what_was_chosen_is_said_and_may_be_replaced():
    said = str(choose_keys(plain(), 3))
    assert said.startswith('3 modules, each trained by man_mm.SLM with its own copy of the neck')
    cfg = man_mm.localize(plain(), num_modules=3, auxiliary=dict(type='man_mm.DGLPyramid'), bank=False)
    assert cfg.model.backbone.auxiliary.type == 'man_mm.DGLPyramid' and not cfg.model.backbone.bank


ERRORS = {
    'too many modules': (plain(), 99, 'num_modules=99 must be an integer from 1'),
    'no modules': (plain(), 0, 'num_modules=0 must be an integer, 1 or more'),
    'local already': (step_config(detection.retinanet(4)), 4, "model.backbone.type='man_mm.LocalBackbone'"),
    'no dict of an optimizer': (
        Config(dict(plain().to_dict(), optim_wrapper=['SGD'])),
        4,
        "optim_wrapper=['SGD'], which must be a dict",
    ),
    'two optimizers': (
        Config(dict(plain().to_dict(), optim_wrapper={part: dict(optimizer=dict(type='SGD')) for part in 'ab'})),
        4,
        "an optim_wrapper for each of ['a', 'b']",
    ),
    'no backbone': (Config(dict(model=dict(type='RetinaNet'))), 4, 'has neither model.backbone nor model.generator'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_what_cannot_be_localized_is_a_value_error_that_names_the_key(case):
    cfg, num_modules, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        man_mm.localize(cfg, num_modules=num_modules)
    assert message in str(error.value)


@pytest.fixture
def run(tmp_path):
    """A plain run on a few images, written to a file."""
    cfg = run_config(make_coco(tmp_path / 'coco'), tmp_path / 'run', model=copy.deepcopy(DETECTOR), epochs=1)
    cfg.update(custom_hooks=[dict(type='man_mm.EpochSeedHook')])
    cfg['optim_wrapper'].update(type='OptimWrapper')
    return write_config(cfg, tmp_path / 'plain.py')


def test_train_localizes_a_plain_config_after_its_options(run, tmp_path):
    options = ('--cfg-options', 'model.backbone.base_channels=16', 'model.neck.in_channels=[16,32,64,128]')
    result = python('train.py', run, '--local-learning', 3, '--lean', *options, 'log_level=INFO')
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'local learning: 3 modules, cut by memory, each trained by man_mm.SlimSLM' in result.stdout + result.stderr
    dumped = Config.fromfile(tmp_path / 'run/plain.py')
    assert dumped.model.backbone.backbone.base_channels == 16
    assert dumped.model.backbone.auxiliary.neck.in_channels == [16, 32, 64, 128]
    assert (tmp_path / 'run/epoch_1.pth').exists()


def test_train_says_in_one_sentence_what_is_wrong(run):
    for arguments, message in {
        ('mmdet::retinanet/no-such.py',): 'no-such.py" does not exist',
        (run, '--local-learning', 99): '--local-learning 99: num_modules=99 must be an integer from 1',
        (run, '--lean'): '--lean is a form of local learning: it needs --local-learning K',
    }.items():
        result = python('train.py', *arguments)
        assert result.returncode != 0 and message in result.stderr.strip().splitlines()[-1]
    result = python('train.py', run, '--local-learning', 3, '--cfg-options', 'model.backbone.num_modules=3')
    assert result.returncode == 1 and '--cfg-options mean the plain config' in result.stderr


UPSTREAM = ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'mmpretrain::resnet/resnet18_8xb32_in1k.py')


@pytest.mark.parametrize(
    ('base', 'lean'),
    [('plain.py', ()), ('plain.py', ('--lean',)), (UPSTREAM[0], ('--lean',)), (UPSTREAM[1], ())],
)
def test_the_file_that_is_written_is_short_and_stands_for_the_same_config(base, lean, run, tmp_path):
    out = tmp_path / 'new/written.py'
    base = str(run) if base == 'plain.py' else base
    result = python('localize.py', base, '--num-modules', 3, *lean, '--out', out)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(out.read_text().splitlines()) <= 30
    expected = man_mm.localize(read_config(base), num_modules=3, lean=bool(lean))
    assert Config.fromfile(out).to_dict() == expected.to_dict()


WORDS = dict(a=1, b=[dict(c='d')])
KEYS = {'words': WORDS, 'numbers': {0: 0.5, 1: WORDS}, 'keywords': {'from': 1, 'class': {'in': 2}}, 'paths': {'a.b': 1}}


@pytest.mark.parametrize('kind', KEYS)
def test_dicts_of_any_keys_are_written_as_python(kind, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    program = runpy.run_path(str(ROOT / 'tools/localize.py'))
    assert eval(program['expression'](KEYS[kind], [])) == KEYS[kind]
    place = dict(old=1)
    for line in program['updates']('place', place, dict(place, **WORDS, own=KEYS[kind])):
        exec(line)
    assert place == dict(old=1, **WORDS, own=KEYS[kind])
    place = {'old': 1}
    for line in program['updates']('place', place, {**place, **KEYS[kind]}):
        exec(line)
    assert place == {'old': 1, **KEYS[kind]}


LAZY = """
from mmengine.hooks import EMAHook
from mmengine.optim import AmpOptimWrapper
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet
from torch.optim import SGD
default_scope = 'mmpretrain'
model = dict(
    type=ImageClassifier, backbone=dict(type=ResNet, depth=18), neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=3, in_channels=512))
optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=SGD, lr=0.1))
custom_hooks = [dict(type=EMAHook)]
"""


def test_a_config_in_the_pure_python_style_is_localized_but_not_inherited(tmp_path):
    (tmp_path / 'lazy.py').write_text(LAZY)
    cfg = man_mm.localize(Config.fromfile(tmp_path / 'lazy.py'))
    assert cfg.optim_wrapper.type == 'man_mm.LocalAmpOptimWrapper' and cfg.custom_hooks[0].type.__name__ == 'EMAHook'
    result = python('localize.py', tmp_path / 'lazy.py', '--out', tmp_path / 'out.py')
    assert result.returncode == 1 and 'cannot be inherited by a file in the text style' in result.stderr
    assert not (tmp_path / 'out.py').exists()


def test_a_config_by_name_has_the_scope_of_its_library_and_its_own_name():
    cfg = read_config(UPSTREAM[0])
    assert cfg.default_scope == 'mmdet' and Path(cfg.filename).name == 'retinanet_r18_fpn_1x_coco.py'


def test_hooks_and_precision_that_the_four_keys_replace_are_named(tmp_path):
    base = plain(hooks=[dict(type='EMAHook')], loss_scale=512.0)
    base.optim_wrapper.type = 'AmpOptimWrapper'
    write_config(base.to_dict(), tmp_path / 'base.py')
    keys = "optim_wrapper = dict(type='man_mm.Local{}OptimWrapper')\n"
    keys += "custom_hooks = [{}dict(type='man_mm.FeatureBankHook')]\n"
    for precision, hooks, lost in (('', '', ['AmpOptimWrapper', 'EMAHook']), ('Amp', '*_base_.custom_hooks, ', [])):
        (tmp_path / 'keys.py').write_text(f"_base_ = './base.py'\n{keys.format(precision, hooks)}")
        sentences = lost_keys(Config.fromfile(tmp_path / 'keys.py'))
        assert len(sentences) == len(lost) and all(map(str.__contains__, sentences, lost))
    assert not lost_keys(base)
