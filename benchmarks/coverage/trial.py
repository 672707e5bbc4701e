"""One upstream config, tried: does it train by local learning, and is what it does right?"""

import copy
import importlib
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from batches import batch_of
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import Tensor, nn

from man_mm import localize
from man_mm.analysis.audit import AuditRow, audit_step
from man_mm.analysis.step import TrainStep
from man_mm.local import find_local_backbone
from man_mm.readout import holder_of
from man_mm.runs.compat import read_config
from man_mm.versions import tree_leaves

__all__ = ['config_of', 'trial']

MOST = re.compile(r'num_modules=\d+ must be an integer from 1 .*? to (\d+)')


def config_of(entry: Mapping[str, Any]) -> Config:
    """The upstream config of an entry, without what this machine lacks: weights to download, AMP, other libraries."""
    package = importlib.import_module(str(entry['lib']))
    cfg = read_config(str(Path(str(package.__file__)).parent / '.mim/configs' / str(entry['path'])))
    if cfg.get('model') is None:
        return cfg
    _without_downloads(cfg.model)
    cfg.load_from = None
    if entry.get('kind') == 'mot':
        cfg.model.tracker = None  # by lap, which is not installed; training does not use it
    if isinstance(cfg.model.get('train_cfg'), (dict, list)):
        _with_fewer_proposals(cfg.model.train_cfg)
    if cfg.model.get('data_preprocessor') is not None and entry['lib'] == 'mmdet':
        cfg.model.data_preprocessor.pop('batch_augments', None)  # they pad or resize to hundreds of px
    wrapper = cfg.get('optim_wrapper') or {}
    if str(wrapper.get('type')).endswith('AmpOptimWrapper'):
        wrapper['type'] = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fp16', 'accumulative_counts'):
        wrapper.pop(key, None)
    if entry.get('bn'):
        _with_plain_norms(cfg.model)
    if isinstance(cfg.model.get('encoder'), dict) and cfg.model.encoder.get('num_cp'):
        cfg.model.encoder.num_cp = 0  # by fairscale, which is not installed
    return cfg


def _dicts(node: Any) -> Iterator[Any]:
    """All dicts in a config, outer ones first."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from _dicts(child)


def _without_downloads(model: Any) -> None:
    for node in _dicts(model):
        for key, value in list(node.items()):
            if key == 'init_cfg' and value:
                entries = value if isinstance(value, (list, tuple)) else [value]
                node[key] = [
                    e for e in entries if 'Pretrained' not in str(e.get('type')) and 'checkpoint' not in e
                ] or None
            elif key == 'pretrained' and value:
                node[key] = False if value is True else None
            elif key in ('teacher_ckpt', 'ckpt_path') or key.endswith('_pretrained'):
                node[key] = None


def _with_fewer_proposals(train_cfg: Any) -> None:
    most = dict(nms_pre=200, nms_post=200, max_per_img=60, max_num=60)
    for node in _dicts(train_cfg):
        node.update({k: m for k, m in most.items() if isinstance(node.get(k), int) and node[k] > m})
        if 'type' in node and isinstance(node.get('num'), int):
            node['num'] = min(node['num'], 64)


def _with_plain_norms(model: Any) -> None:
    for node in _dicts(model):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):  # torch's runs on no CPU
            node['type'] = 'BN'


def trial(entry: Mapping[str, Any], num_modules: int, lean: bool) -> dict[str, Any]:
    """Train the config for a step, plainly and by `man_mm.localize`, and compare.

    Returns:
        `outcome`, `why`, and what else is known. Outcomes: `works`; `refused` (a ValueError of man_mm's, before the
        step); `crash`; `wrong`; `upstream fails` (the plain config does); `not trained` (no model, batch or optimizer).
    """
    cfg = config_of(entry)
    hub = MessageHub.get_current_instance()  # what some heads ask a runner for
    for key, value in dict(epoch=0, iter=0, max_epochs=12, max_iters=90000).items():
        hub.update_info(key, value)
    if cfg.get('model') is None or not cfg.get('optim_wrapper'):
        return dict(outcome='not trained', why='the config has no model or no optimizer')
    found: dict[str, Any] = dict(host=str(cfg.model.get('type')))
    batch = batch_of(dict(entry))
    plain = _Trained(cfg)
    if batch is not None and 'optimizer' in cfg.optim_wrapper:  # not of several optimizers: `localize` refuses these
        try:
            plain.build()
            plain.step(batch)
        except Exception as error:
            return found | dict(outcome='upstream fails', why=_said(error))
    for _ in range(2):
        try:
            cfg = localize(config_of(entry), num_modules, lean)
        except Exception as error:
            most = MOST.search(str(error))
            if most is not None and int(most[1]) > 1:
                num_modules = int(most[1])
                continue
            return found | dict(outcome='refused' if _is_ours(error) else 'crash', why=_said(error))
        break
    return found | _compared(_Trained(cfg), plain, batch)


class _Trained:
    """A model that steps once, and the parameters that got a gradient."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.got: set[str] = set()

    def build(self) -> nn.Module:
        self.run = TrainStep(self.cfg)
        self.model: Any = self.run.model
        self.state = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.run.optimizer.register_step_pre_hook(lambda *_: self._look())
        return self.model

    def _look(self) -> None:
        self.got |= {name for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self, batch: dict[str, Any]) -> None:
        torch.manual_seed(1)
        self.run(copy.deepcopy(batch))

    def audit(self, batch: dict[str, Any]) -> list[AuditRow]:
        torch.manual_seed(1)
        return audit_step(self.run, copy.deepcopy(batch))


def _compared(local: _Trained, plain: _Trained, batch: dict[str, Any] | None) -> dict[str, Any]:
    try:
        model = local.build()
    except Exception as error:
        return dict(outcome='refused' if _is_ours(error) else 'crash', why=_said(error))
    net = find_local_backbone(model)
    told = dict(backbone=type(net.backbone).__name__, num_modules=net.num_modules, units=len(net.unrolled.units))
    if batch is None:
        return told | dict(outcome='not trained', why='it is built; what its batches are is not known here')
    model.load_state_dict(plain.state, strict=False)
    try:
        rows = local.audit(batch)
    except Exception as error:
        return told | dict(outcome='crash', why=_said(error))
    leaks = [f'{row.part}: {row.foreign[0]} is trained by another loss' for row in rows if row.foreign]
    wrong = leaks + _without_gradients(local, plain) + _unequal(local, plain, batch)
    return told | (dict(outcome='wrong', why='; '.join(wrong)) if wrong else dict(outcome='works', why=''))


def _without_gradients(local: _Trained, plain: _Trained) -> list[str]:
    """Parameters that back-propagation trains, and local learning does not."""
    got = {name.replace('.backbone.', '.', 1) for name in local.got if '.auxiliaries.' not in name}
    got |= local.got
    missing = sorted(name for name in plain.got if name not in got)
    return [f'{len(missing)} parameters without a gradient, e.g. {missing[0]}'] if missing else []


def _unequal(local: _Trained, plain: _Trained, batch: dict[str, Any]) -> list[str]:
    """Whether the plain model loads the weights, and makes the same features of them in evaluation."""
    state = {key: value for key, value in local.model.state_dict().items() if '.auxiliaries.' not in key}
    passed_over = plain.model.load_state_dict(plain.model.state_dict(), strict=False)  # by upstream's own loading
    loaded = plain.model.load_state_dict(state, strict=False)
    if loaded != passed_over:
        return [f'the plain model does not load the weights strictly: {loaded}']
    own, other = (_features(model, batch) for model in (local.model, plain.model))
    same = len(own) == len(other) and all(torch.equal(a, b) or a.isnan().any() for a, b in zip(own, other, strict=True))
    return [] if same else ['evaluation differs from the plain model']


def _features(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    model.eval()
    with torch.no_grad():
        on_images = getattr(model.data_preprocessor, 'use_det_processor', False)  # of trackers: only in training
        x = model.data_preprocessor(copy.deepcopy(batch), on_images)['inputs']
        x = x['img'] if isinstance(x, dict) else x[0] if isinstance(x, list) else x
        holder = holder_of(model)
        name = next((name for name in ('extract_feat', 'forward_tensor') if hasattr(holder, name)), 'backbone')
        is_video = 'track_head' in model._modules
        made = getattr(holder, name)(x.flatten(0, 1) if is_video else x)
    return [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]


def _is_ours(error: Exception) -> bool:
    """Whether man_mm says what is amiss."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError) and '/man_mm/' in last


def _said(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = '' if _is_ours(error) else f' ({Path(last.filename).name}:{last.lineno})'
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}{where}'
