"""Every config loads, builds and makes one step, at a fraction of its width, depth and image size."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, OPTIM_WRAPPERS, DefaultScope

from man_mm.analysis.step import build_model

from ..helpers.classification import batch as images_of_classes
from ..helpers.detection import batch as images_with_boxes
from ..helpers.restoration import batch as pairs_of_images

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT / 'configs')) for path in ROOT.glob('configs/[!_]*/*.py'))
RULES = sorted({Path(name).parent.name for name in CONFIGS} - {'bp', 'demo'})
LOCAL = [name for name in CONFIGS if any(f'_{rule}' in name for rule in RULES)]
UPSTREAMS = ('faster-rcnn', 'fcos', 'detr', 'deformable-detr', 'retinanet_regnetx', 'retinanet_swin', 'swinir')
"""Models whose config is upstream's, and so for ImageNet."""
WITH_OWN_TWIN = [
    name
    for name in LOCAL
    if not name.endswith('_in1k.py') and not name.startswith(tuple(f'man/{u}' for u in UPSTREAMS))
]
"""Local configs whose twin is ours."""


def first_of_each_kind(names):
    """The config with the fewest modules and layers of each model and rule, whatever its scale and data set.

    Mixed precision and recomputed heads are left out of the step, so they make no kind.
    """
    kinds = {}

    def size(name):
        depth, num_modules = (int((re.findall(pattern, name) or ['0'])[0]) for pattern in (r'\d+', r'_k(\d+)_'))
        return num_modules, depth, name

    for name in sorted(names, key=size):
        model_and_rule = re.sub(r'_k\d+|-amp|-ckptall|_(?!in1k)[^_]+$', '', Path(name).stem)  # ImageNet: other models
        kinds.setdefault(re.sub(r'\d+', '', model_and_rule), name)
    return set(kinds.values())


SHORT = first_of_each_kind(CONFIGS)
"""Those that make their step in the short suite; the others differ from them by numbers."""

WIDTH = 8
SIZE = 32
SHALLOW = {110: 14, 32: 14, 152: 50, 101: 50, 34: 18}
"""Depth at which a ResNet is tested; K shrinks with it, to a module a unit at most."""
WHOLE = ('DETR', 'DeformableDETR')
"""Detectors whose widths are tied to one another: they are tested as wide as they are."""
DATA = dict(num_classes=10, mean=100.0, std=60.0, lr=0.001)
"""What configs of other data sets may say otherwise."""
UNITS = {'man_mm.CIFARResNet': 7, 'VisionTransformer': 5, 'ResNet': 9}
MOST = 5
"""Modules, but where cuts are named or modules of a stage share: then as many as the net that is tested has units."""


def narrow(cfg, width=WIDTH, name=''):
    """Cut every channel count of a model config to 1 / `width`, and drop pretrained weights."""
    if isinstance(cfg, (list, tuple)):
        return [narrow(value, width, name) for value in cfg]
    if name in DATA:
        return DATA[name]
    if isinstance(cfg, int) and not isinstance(cfg, bool) and name.endswith('channels'):
        return cfg if cfg <= 3 else max(cfg // width, 1)  # those of images stay
    if not isinstance(cfg, dict):
        return cfg
    small = {key: narrow(value, width, key) for key, value in cfg.items() if key != 'init_cfg'}
    if small.get('type') == 'ResNet':
        small['base_channels'] = cfg.get('base_channels', 64) // width
        small.update(stem_channels=small['base_channels'], depth=SHALLOW.get(cfg['depth'], cfg['depth']))
    if 'stacked_convs' in small:
        small['stacked_convs'] = 1
    if 'num_groups' in small:
        small['num_groups'] = 1  # fewer channels than groups are left
    if small.get('type') == 'man_mm.YOLOV1Head':
        small['grid_size'] = None  # the images are smaller
    if small.get('type') == 'man_mm.CIFARResNet':
        small.update(base_channels=16 // width, depth=SHALLOW[cfg['depth']])
    if small.get('type') in ('DETR', 'DeformableDETR'):
        small.update(num_queries=10, encoder={**small['encoder'], 'num_layers': 1})
        small['decoder'] = {**small['decoder'], 'num_layers': 2}
    if small.get('type') == 'SwinIRNet':
        small.update(embed_dim=12, depths=[2] * 4, num_heads=[2] * 4, img_size=16)
    if small.get('type') == 'SwinTransformer':
        small.update(embed_dims=cfg['embed_dims'] // width, num_heads=[1, 2, 4, 8])
    if small.get('type') == 'VisionTransformer':
        small['arch'] = dict(embed_dims=384 // width, num_layers=4, num_heads=2, feedforward_channels=96)
        small.update(img_size=SIZE, patch_size=8)
    if small.get('type') == 'man_mm.LocalBackbone':
        units = UNITS.get(cfg['backbone']['type'], cfg['num_modules'])
        if not isinstance(cfg.get('partition'), list) and cfg.get('share', 'none') == 'none':
            units = min(units, MOST)
        small.update(probe_size=(SIZE, SIZE), num_modules=min(cfg['num_modules'], units))
        if isinstance(cfg.get('partition'), list):  # of the blocks that are left
            small['partition'] = [name for name in cfg['partition'] if name[-2:] not in ('.2', '.3', '.4')]
    return small


@cache
def load(name):
    return Config.fromfile(ROOT / 'configs' / name)


def place_of(model_cfg):
    return 'generator' if 'generator' in model_cfg else 'backbone'


def wrapped(cfg):
    return cfg.model[place_of(cfg.model)]


def inner(model_cfg):
    backbone = model_cfg[place_of(model_cfg)]
    return backbone.get('backbone', backbone)


def batch_for(cfg):
    if cfg.default_scope == 'mmpretrain':
        return images_of_classes(4, SIZE)
    if cfg.default_scope == 'mmagic':
        net = inner(cfg.model)
        return pairs_of_images(scale=net.get('upscale_factor') or net['upscale'])
    return images_with_boxes(2)  # group norm of maps of one pixel needs more than one


def width_of(cfg):
    """By how much a model is narrowed: not at all where no key of its backbone does."""
    net = inner(cfg.model.to_dict())
    return 1 if cfg.model.type in WHOLE or narrow(net) == narrow(net, width=1) else WIDTH


def small_config(cfg):
    """What a training step on the CPU reads of a config, narrowed, without what depends on the data set."""
    width = width_of(cfg)
    hooks = [hook.to_dict() for hook in cfg.get('custom_hooks', []) if hook.type == 'man_mm.FeatureBankHook']
    rest = ('loss_scale', 'dtype', 'paramwise_cfg', 'constructor')
    wrapper = {key: value for key, value in cfg.optim_wrapper.to_dict().items() if key not in rest}
    wrapper['type'] = wrapper.get('type', 'OptimWrapper').replace('Amp', '')  # mixed precision needs a GPU
    wrapper['optimizer'].pop('_scope_', None)
    small = dict(default_scope=cfg.default_scope, model=narrow(cfg.model.to_dict(), width), custom_hooks=hooks)
    if cfg.model.type in WHOLE and hooks:
        small['model']['backbone']['num_modules'] = 2  # they take seconds
    if cfg.get('data_preprocessor') is not None:
        small['data_preprocessor'] = narrow(cfg.data_preprocessor.to_dict())
    return Config({**small, 'optim_wrapper': narrow(wrapper)})


STEPPED = {}
"""Configs that have made their step, as text."""


@pytest.mark.parametrize(
    'name', [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
)
def test_config_makes_a_step_that_moves_every_trained_weight(name):
    cfg = load(name)
    small = small_config(cfg)
    text = json.dumps(small.to_dict(), sort_keys=True)
    if text not in STEPPED:  # leaves that differ by the data set alone, or by what is narrowed, share a step
        STEPPED[text] = trained_and_stepped(small, batch_for(cfg))
    trained, steps = STEPPED[text]
    if small.optim_wrapper.get('eager_step'):  # a step for each module; the last one leaves the others what they have
        assert set().union(*steps) == trained
    else:
        assert steps == [trained]


def trained_and_stepped(cfg, data):
    """The names of all trained weights, and of those with a gradient at each step of the optimizer."""
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    model.train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        settings = cfg.optim_wrapper.to_dict()
        sgd_or_adam = settings['optimizer'].pop('type')
        settings['optimizer'] = getattr(torch.optim, sgd_or_adam)(model.parameters(), **settings['optimizer'])
        wrapper = OPTIM_WRAPPERS.build(settings)
    steps = []
    wrapper.optimizer.register_step_pre_hook(
        lambda *_: steps.append({key for key, p in model.named_parameters() if p.grad is not None})
    )
    for hook in cfg.custom_hooks:
        HOOKS.build(hook).bind(model, wrapper)
    assert model.train_step(data, wrapper)['loss'].isfinite()
    return {key for key, p in model.named_parameters() if p.requires_grad}, steps


@pytest.mark.parametrize('name', LOCAL)
def test_names_say_rule_and_number_of_modules(name):
    cfg = load(name)
    rule = next(rule for rule in RULES if f'_{rule}' in name)
    auxiliary = wrapped(cfg).auxiliary
    if rule == 'dgl' and cfg.default_scope == 'mmagic':  # the module's output through the tail
        assert (auxiliary.type, auxiliary.units_per_stage, wrapped(cfg).bank) == ('man_mm.SLM', 0, False)
    elif cfg.default_scope == 'mmdet' and '_manlean' in name and '-copy_' not in name and '-follow_' not in name:
        assert auxiliary.type == 'man_mm.SlimSLM'
    elif cfg.default_scope == 'mmdet' and (rule == 'dgl' or '_man-noslm_' in name):
        assert (auxiliary.type, auxiliary.get('banked_levels', False)) == ('man_mm.DGLPyramid', rule == 'man')
    else:
        assert auxiliary.type.lower() == {'man': 'man_mm.slm'}.get(rule, f'man_mm.{rule}')
    assert f'_k{wrapped(cfg).num_modules}_' in name
    assert ('-follow_' in name) == (auxiliary.get('follow') is not None)
    assert ('-frozen_' in name) == (not auxiliary.get('trainable', True))


@pytest.mark.parametrize('name', WITH_OWN_TWIN)
def test_local_config_differs_from_its_twin_only_by_local_learning(name):
    local = load(name)
    parts = Path(name).stem.split('_')
    folder = 'demo' if name.startswith('demo/') else 'bp'
    twin = load(f'{folder}/{parts[0]}_{"bp_" if len(parts) == 4 else f"{parts[1]}_bp_"}{parts[-1]}.py')
    for key in (
        'train_dataloader',
        'val_dataloader',
        'param_scheduler',
        'train_cfg',
        'randomness',
        'val_evaluator',
        'test_dataloader',
        'test_evaluator',
        'auto_scale_lr',
        'default_hooks',
        'data_preprocessor',
    ):
        assert local.get(key) == twin.get(key), key
    for key in ('optimizer', 'paramwise_cfg'):
        assert local.optim_wrapper.get(key) == twin.optim_wrapper.get(key), key
    clip = {k: v for k, v in local.optim_wrapper.get('clip_grad', {}).items() if k != 'per_module'}
    assert clip == twin.optim_wrapper.get('clip_grad', {})
    assert {k: v for k, v in inner(local.model).items() if k != 'with_cp'} == inner(twin.model)
    without = {place_of(local.model): None}
    assert {**local.model, **without} == {**twin.model, **without}


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'edsr' in name or 'swinir' in name])
def test_runs_of_super_resolution_do_not_share_a_folder_and_start_from_their_own_x2(name):
    cfg = load(name)
    assert cfg.work_dir is None and cfg.default_hooks.checkpoint.out_dir is None
    if cfg.get('load_from'):
        parts = Path(name).stem.split('_')
        assert cfg.load_from == f'work_dirs/{"_".join(["edsr", "x2", *parts[2:]])}/iter_300000.pth'
    assert bool(cfg.get('load_from')) == ('div2k' in name and '_x2_' not in name)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_leaf_is_short_and_its_folder_lists_it(name):
    path = ROOT / 'configs' / name
    assert len(path.read_text().splitlines()) <= 30
    if not name.startswith('demo/'):
        assert f'({path.name})' in (path.parent / 'README.md').read_text()
