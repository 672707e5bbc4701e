"""All upstream configs, looked up: served, if their model and their backbone are in configs that were tried."""

import importlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from man_mm.keys import type_name
from man_mm.local.names import at_path, backbone_path
from man_mm.runs.compat import read_config

__all__ = ['lookup']

SKIPPED = ('_base_', 'benchmarks', 'common')
UNKNOWN = ('upstream fails', 'not trained', 'not finished')


def lookup(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Counter]:
    """Count the upstream configs with a model and an optimizer, by library.

    Args:
        results: Outcomes by config, as `docs/data/coverage.json` has them.

    Returns:
        By group, how many configs are `served`, `refused` or `unknown`: those whose model or backbone was tried in no
        config that trains plainly on this machine.
    """
    models, backbones = defaultdict(set), defaultdict(set)
    for name, result in results.items():
        if result['outcome'] not in UNKNOWN:
            lib, _, path = name.partition('::')
            model, backbone = _kinds(read_config(str(_root(lib) / path)))
            models[model].add(result['outcome'])
            backbones[backbone].add(result['outcome'])
    counts: dict[str, Counter] = defaultdict(Counter)
    for lib in ('mmdet', 'mmpretrain', 'mmagic'):
        for cfg in _configs(lib):
            model, backbone = _kinds(cfg)
            known = models.get(model, set()), backbones.get(backbone, set())
            served = all('works' in outcomes for outcomes in known)
            is_refused = any(outcomes and 'works' not in outcomes for outcomes in known)
            counts[_group(lib, model)]['served' if served else 'refused' if is_refused else 'unknown'] += 1
    return dict(counts)


def _configs(lib: str) -> Iterator[Config]:
    root = _root(lib)
    for path in sorted(root.rglob('*.py')):
        if not set(path.relative_to(root).parts) & set(SKIPPED):
            try:
                cfg = read_config(str(path))
            except (Exception, SystemExit):  # of a base that upstream has moved, or of two styles of configs
                continue
            if cfg.get('model') and cfg.get('optim_wrapper'):
                yield cfg


def _root(lib: str) -> Path:
    return Path(str(importlib.import_module(lib).__file__)).parent / '.mim/configs'


def _kinds(cfg: Config) -> tuple[str, str]:
    """Types of a config's model and of its backbone."""
    path = backbone_path(cfg.model)
    backbone = at_path(cfg.model, path).get('type') if path else None
    return type_name(cfg.model.get('type')), type_name(backbone)


def _group(lib: str, model: str) -> str:
    if lib != 'mmpretrain':
        return lib
    models = importlib.import_module('mmpretrain.models')
    cls = getattr(models, model, None)
    is_taught = cls is None or not issubclass(cls, models.BaseSelfSupervisor)
    return 'mmpretrain, with labels' if is_taught else 'mmpretrain, self-supervised'
