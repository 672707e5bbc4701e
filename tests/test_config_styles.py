"""Both config styles of MMEngine, and the short form, build the same model, with and without command-line overrides."""

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from man_mm.local import LocalBackbone

from .helpers.detection import FPN, retinanet
from .helpers.training import Trainer, assert_equal

LAZY_BASE = """
from mmdet.models import ResNet
backbone = dict(type=ResNet, depth=18, base_channels=8, norm_cfg=dict(type='BN'), norm_eval=True, style='pytorch')
"""
LAZY = """
from mmengine.config import read_base
from mmdet.models import FPN, DetDataPreprocessor, RetinaHead, RetinaNet
from man_mm.auxiliary import SLM
from man_mm.local import LocalBackbone
with read_base():
    from .lazy_base import *
neck = dict({neck})
model = dict({model})
model.update(type=RetinaNet, neck=neck, backbone=dict(
    type=LocalBackbone, backbone=backbone, num_modules=4, auxiliary=dict(type=SLM, neck=neck)))
"""
TEXT_BASE = 'model = {model}\n'
TEXT = """
_base_ = './text_base.py'
model = dict(backbone=dict(_delete_=True, type='man_mm.LocalBackbone', backbone={{_base_.model.backbone}},
                           num_modules=4, auxiliary=dict(type='man_mm.SLM', neck={{_base_.model.neck}})))
"""
SHORT = """
_base_ = './text_base.py'
from man_mm.config import local_learning
model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck))
"""
STYLES = ('text', 'short', 'lazy')


def keywords(cfg, **types):
    """A dict as keyword arguments in a file, with classes in place of the names of types."""
    parts = {**{key: repr(value) for key, value in cfg.items()}, **types}
    return ', '.join(f'{key}={value}' for key, value in parts.items())


@pytest.fixture
def files(tmp_path):
    plain = retinanet(None)
    rest = {key: value for key, value in plain.items() if key not in ('type', 'backbone', 'neck')}
    (tmp_path / 'text_base.py').write_text(TEXT_BASE.format(model=plain))
    (tmp_path / 'text.py').write_text(TEXT)
    (tmp_path / 'short.py').write_text(SHORT)
    (tmp_path / 'lazy_base.py').write_text(LAZY_BASE)
    lazy = LAZY.format(neck=keywords(FPN, type='FPN'), model=keywords(rest))
    (tmp_path / 'lazy.py').write_text(lazy)
    return tmp_path


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('style', STYLES)
def test_a_config_of_either_style_builds_and_trains(files, style):
    model = build(Config.fromfile(files / f'{style}.py'))
    assert isinstance(model.backbone, LocalBackbone) and model.backbone.num_modules == 4
    assert len(model.backbone.auxiliaries) == 3
    model.init_weights()
    assert Trainer(model).step()['loss'].isfinite()


def test_all_styles_have_the_same_state_dict_and_the_same_step(files):
    text, *others = (build(Config.fromfile(files / f'{style}.py')) for style in STYLES)
    for model in others:
        model.load_state_dict(text.state_dict(), strict=True)
    runs = [Trainer(model) for model in (text, *others)]
    for run in runs:
        run.step()
    for run in runs[1:]:
        assert_equal(runs[0].gradients, run.gradients)


@pytest.mark.parametrize('style', STYLES)
def test_settings_are_reachable_from_the_command_line(files, style):
    cfg = Config.fromfile(files / f'{style}.py')
    changes = {'num_modules': 2, 'partition': 'memory', 'bank': False, 'auxiliary.head': 'private'}
    cfg.merge_from_dict({f'model.backbone.{key}': value for key, value in changes.items()})
    backbone = build(cfg).backbone
    assert backbone.num_modules == 2 and not backbone.lends_bank
    assert list(backbone.auxiliaries[0].heads) == ['bbox_head']


@pytest.mark.parametrize('style', STYLES)
def test_a_dumped_config_builds_the_same_model(files, style):
    cfg = Config.fromfile(files / f'{style}.py')
    cfg.dump(files / 'dumped.py')
    again = build(Config.fromfile(files / 'dumped.py'))
    assert again.state_dict().keys() == build(cfg).state_dict().keys()
