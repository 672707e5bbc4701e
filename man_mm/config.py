"""The keys of local learning on top of any config, by one call in a config file; what written-out keys lose."""

import ast
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import reduce
from typing import Any

from mmengine.config import Config

from .keys import type_name
from .local.names import BACKBONES, at_path, backbone_path

__all__ = ['enable_amp', 'local_learning', 'lost_keys', 'own_wrapper']

OWN_WRAPPERS = {
    'OptimWrapper': 'man_mm.LocalOptimWrapper',
    'AmpOptimWrapper': 'man_mm.LocalAmpOptimWrapper',
}
"""The optim wrapper that stands in for one of MMEngine's."""

AMP_WRAPPERS = {
    'OptimWrapper': 'AmpOptimWrapper',
    'AmpOptimWrapper': 'AmpOptimWrapper',
    'man_mm.LocalOptimWrapper': 'man_mm.LocalAmpOptimWrapper',
    'man_mm.LocalAmpOptimWrapper': 'man_mm.LocalAmpOptimWrapper',
}
"""Of each optim wrapper the one in mixed precision."""


def local_learning(
    base: Mapping[str, Any], *, num_modules: int, auxiliary: Mapping[str, Any], **settings: Any
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], bool]:
    """Return `model`, `optim_wrapper`, `custom_hooks` and `find_unused_parameters` of a config that trains by modules.

    For a config file in MMEngine's text style. Its first statement must be `_base_`: MMEngine takes a file that imports
    before it for one in the pure Python style, where nothing is called while a file is read::

        _base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
        from man_mm.config import local_learning

        model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
            _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck)
        )

    What comes back is plain data, and merges with the base as if it had been written out: the optim wrapper keeps the
    base's optimizer, clipping, accumulation and mixed precision, the hooks are the base's and `man_mm.FeatureBankHook`,
    the last one. The file may change it before it ends, e.g. `optim_wrapper.update(eager_step=True)`.

    Args:
        base: `_base_`, the merged base configs. It is not changed.
        num_modules: K.
        auxiliary: Config of the network that trains a module.
        settings: Other keys of `man_mm.LocalBackbone`, which checks them all when the model is built.

    Raises:
        ValueError: If the base has no model with a backbone, is trained by modules already, or has an optim wrapper
            that local learning has no variant of.
    """
    model = base.get('model') or {}
    path = backbone_path(model)
    if path is None and 'type' in model:
        parts = sorted(key for key, part in model.items() if isinstance(part, Mapping) and 'type' in part)
        raise ValueError(
            f'local learning: model.type={model["type"]!r} is not served: it has neither '
            f'{" nor ".join(f"model.{name}" for name in BACKBONES)}, but the parts {parts}.'
        )
    if path is None:
        names = ' nor '.join(f'model.{name}' for name in BACKBONES)
        raise ValueError(
            f'local learning: the base, with keys {sorted(base)}, has neither {names}. Inherit from a '
            'whole config of a model, or write the four keys out: see docs/get_started.md.'
        )
    backbone = at_path(model, path)
    name = '.'.join(path)
    if type_name(backbone.get('type')) == 'LocalBackbone':
        raise ValueError(
            f'local learning: model.{name}.type={backbone["type"]!r}: the base is trained by modules '
            f'already. Change its keys, e.g. model.{name}.num_modules={num_modules}, with '
            'auxiliary=dict(_delete_=True, type=...) for another rule; or inherit from its twin without modules.'
        )
    wrapped = dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone=deepcopy(backbone),
        num_modules=num_modules,
        auxiliary=deepcopy(auxiliary),
        **settings,
    )
    hooks = [*deepcopy(base.get('custom_hooks') or []), dict(type='man_mm.FeatureBankHook')]
    changed = reduce(lambda part, key: {key: part}, reversed(path), wrapped)
    return changed, dict(type=own_wrapper(base.get('optim_wrapper') or {})), hooks, True


def own_wrapper(optim_wrapper: Mapping[str, Any]) -> str:
    """The optim wrapper that stands in for the one of a plain config.

    Raises:
        ValueError: If there is none, or if it is no dict of one optimizer.
    """
    if not isinstance(optim_wrapper, Mapping):
        raise ValueError(
            f'local learning: the base has optim_wrapper={optim_wrapper!r}, which must be a dict, e.g. '
            "dict(optimizer=dict(type='SGD', lr=0.01))."
        )
    several = sorted(key for key, part in optim_wrapper.items() if isinstance(part, Mapping) and 'optimizer' in part)
    if several:
        raise ValueError(
            f'local learning: the base has an optim_wrapper for each of {several}, but local losses and the main loss '
            'are stepped by one optimizer.'
        )
    kind = optim_wrapper.get('type', 'OptimWrapper')
    if type_name(kind) not in OWN_WRAPPERS:
        raise ValueError(
            f'local learning: the base has optim_wrapper.type={kind!r}, of which there is no variant for '
            f'local losses. Set one of {sorted(OWN_WRAPPERS)} in the base.'
        )
    return OWN_WRAPPERS[type_name(kind)]


def enable_amp(cfg: Config) -> None:
    """Swap in the AMP variant of the optim wrapper, local or not, as `--amp` of the command lines does.

    Raises:
        ValueError: If there is none.
    """
    if 'optimizer' not in cfg.get('optim_wrapper', {}):
        raise ValueError('the config has no optim_wrapper.optimizer: mixed precision is chosen for one optimizer.')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    library = kind.__module__ if isinstance(kind, type) else kind.rpartition('.')[0]
    known = {type_name(own): mixed for own, mixed in AMP_WRAPPERS.items()}
    if type_name(kind) not in known or library.partition('.')[0] not in ('', 'mmengine', 'man_mm'):
        raise ValueError(f'no AMP variant of optim_wrapper.type={kind!r} is known; known are {sorted(AMP_WRAPPERS)}.')
    cfg.optim_wrapper.type = known[type_name(kind)]
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def lost_keys(cfg: Config) -> list[str]:
    """One sentence for each hook, and for mixed precision, that a file of a locally trained `cfg` has and it has not.

    `custom_hooks = [...]` replaces the list of a base, `optim_wrapper = dict(type=...)` its type.
    """
    if type_name((cfg.get('optim_wrapper') or {}).get('type')) != 'LocalOptimWrapper':
        written = set()
    else:
        written = {'AmpOptimWrapper'} & set(_types_written(cfg.text, 'optim_wrapper'))
    sentences = [
        "optim_wrapper.type='man_mm.LocalOptimWrapper' replaces an AmpOptimWrapper, and trains in full precision: "
        "'man_mm.LocalAmpOptimWrapper' keeps it."
        for _ in written
    ]
    kept = {type_name(hook.get('type')) for hook in cfg.get('custom_hooks') or []}
    if 'FeatureBankHook' in kept:
        lost = sorted(set(_types_written(cfg.text, 'custom_hooks')) - kept)
        sentences += [
            f'custom_hooks lacks {name}, which a base has: custom_hooks = [*_base_.custom_hooks, ...] keeps it.'
            for name in lost
        ]
    return sentences


def _types_written(text: str, key: str) -> Iterator[str]:
    """Names of all types in what the files of a config, whose paths head them in `text`, assign to `key`."""
    for source in re.split(r'^(?![#\s]).*\.py$', text, flags=re.MULTILINE):
        try:
            statements = ast.parse(source).body
        except SyntaxError:  # e.g. {{_base_.model}}, which is no Python
            continue
        for statement in statements:
            if isinstance(statement, ast.Assign) and key in [
                getattr(target, 'id', None) for target in statement.targets
            ]:
                words = (word for node in ast.walk(statement.value) for word in getattr(node, 'keywords', ()))
                yield from (
                    type_name(word.value.value) for word in words if word.arg == 'type' and hasattr(word.value, 'value')
                )
