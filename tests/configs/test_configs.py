"""Every config loads, builds and makes one step, at a fraction of its width and image size."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, OPTIM_WRAPPERS, DefaultScope

from ..models import batch, build
from ..training import fake_runner

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT / 'configs')) for path in ROOT.glob('configs/[!_]*/*.py'))
WIDTH = 8


def narrow(cfg, name=''):
    """Cut every channel count of a model config to 1 / `WIDTH`, and drop pretrained weights."""
    if isinstance(cfg, list):
        return [narrow(value, name) for value in cfg]
    if isinstance(cfg, int) and not isinstance(cfg, bool) and name.endswith('channels'):
        return max(cfg // WIDTH, 1)
    if not isinstance(cfg, dict):
        return cfg
    small = {key: narrow(value, key) for key, value in cfg.items() if key != 'init_cfg'}
    if small.get('type') == 'ResNet':
        small['base_channels'] = cfg.get('base_channels', 64) // WIDTH
    return small


def load(name):
    return Config.fromfile(ROOT / 'configs' / name)


def inner(model_cfg):
    backbone = model_cfg['backbone']
    return backbone.get('backbone', backbone)


@pytest.mark.parametrize('name', CONFIGS)
def test_config_makes_a_step_that_moves_every_trained_weight(name):
    cfg = load(name)
    model = build(narrow(cfg.model.to_dict()), scope=cfg.default_scope).train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        settings = cfg.optim_wrapper.optimizer.to_dict()
        optimizer = getattr(torch.optim, settings.pop('type'))(model.parameters(), **settings)
        wrapper_cfg = {key: value for key, value in cfg.optim_wrapper.to_dict().items() if key != 'optimizer'}
        wrapper = OPTIM_WRAPPERS.build({'type': 'OptimWrapper', **wrapper_cfg, 'optimizer': optimizer})
    reached = set()
    optimizer.register_step_pre_hook(
        lambda *_: reached.update(key for key, p in model.named_parameters() if p.grad is not None)
    )
    for hook in cfg.get('custom_hooks', []):
        if hook.type == 'man_mm.FeatureBankHook':
            HOOKS.build(hook).before_train(fake_runner(model=model, optim_wrapper=wrapper))
    logs = model.train_step(batch(), wrapper)
    assert logs['loss'].isfinite()
    assert reached == {key for key, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('man/') or '_man_' in name])
def test_local_config_differs_from_its_twin_only_by_local_learning(name):
    local = load(name)
    twin_name = (
        name.replace('man/', 'bp/').replace('_man_', '_bp_').replace(f'_k{local.model.backbone.num_modules}', '')
    )
    twin = load(twin_name)
    assert f'_man_k{local.model.backbone.num_modules}_' in name
    for key in (
        'train_dataloader',
        'val_dataloader',
        'param_scheduler',
        'train_cfg',
        'randomness',
        'val_evaluator',
        'default_hooks',
    ):
        assert local[key] == twin[key], key
    assert local.optim_wrapper.optimizer == twin.optim_wrapper.optimizer
    assert inner(local.model) == inner(twin.model)
    assert {**local.model, 'backbone': None} == {**twin.model, 'backbone': None}
