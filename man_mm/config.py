"""The keys of local learning on top of any config: by one call in a config file, or of a whole config in Python."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .choose import Form, forms, model_that_trains, recomputed_functions
from .keys import count
from .local.names import BACKBONES

__all__ = ['Keys', 'choose_keys', 'local_learning', 'localize']

OWN_WRAPPERS = {
    'OptimWrapper': 'man_mm.LocalOptimWrapper',
    'AmpOptimWrapper': 'man_mm.LocalAmpOptimWrapper',
}
"""The optim wrapper that stands in for one of MMEngine's."""


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
    name = next((name for name in BACKBONES if name in model), None)
    if name is None:
        names = ' nor '.join(f'model.{name}' for name in BACKBONES)
        raise ValueError(
            f'local_learning(_base_, ...): the base, with keys {sorted(base)}, has neither {names}. Inherit from a '
            'whole config of a model, or write the four keys out: see docs/get_started.md.'
        )
    backbone = model[name]
    if _name(backbone.get('type')) == 'LocalBackbone':
        raise ValueError(
            f'local_learning(_base_, ...): model.{name}.type={backbone["type"]!r}: the base is trained by modules '
            f'already. Change its keys, e.g. model = dict({name}=dict(num_modules={num_modules})), with '
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
    return {name: wrapped}, dict(type=_own_wrapper(base.get('optim_wrapper') or {})), hooks, True


def _own_wrapper(optim_wrapper: Mapping[str, Any]) -> str:
    kind = optim_wrapper.get('type', 'OptimWrapper')
    if _name(kind) not in OWN_WRAPPERS:
        raise ValueError(
            f'local_learning(_base_, ...): the base has optim_wrapper.type={kind!r}, of which there is no variant for '
            f'local losses. Set one of {sorted(OWN_WRAPPERS)} in the base.'
        )
    return OWN_WRAPPERS[_name(kind)]


def _name(kind: Any) -> str:
    """Name of a type, which a config has as a class, or as a string with or without a scope."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


@dataclass(frozen=True)
class Keys:
    """The keys of local learning that were chosen for a config.

    Args:
        num_modules: K.
        form: What trains the modules.
        optim_wrapper: Keys on top of those of `local_learning`.
        hooks: Hooks behind those of `local_learning`.
        top: Further keys at the top of a config.
    """

    num_modules: int
    form: Form
    optim_wrapper: dict[str, Any] = field(default_factory=dict)
    hooks: list[dict[str, Any]] = field(default_factory=list)
    top: dict[str, Any] = field(default_factory=dict)

    def on(self, cfg: Config) -> Config:
        """A new config: `cfg` with these keys."""
        model, optim_wrapper, hooks, unused = local_learning(
            cfg, num_modules=self.num_modules, auxiliary=self.form.auxiliary, **self.form.backbone
        )
        keys = dict(
            model=model,
            optim_wrapper={**optim_wrapper, **self.optim_wrapper},
            custom_hooks=[*hooks, *self.hooks],
            find_unused_parameters=unused,
            **self.top,
        )
        localized = deepcopy(cfg)
        localized.merge_from_dict(deepcopy(keys))
        return localized

    def __str__(self) -> str:
        eager = '; every module is stepped at once' if self.optim_wrapper.get('eager_step') else ''
        cuts = ', cut by memory' if self.form.backbone.get('partition') == 'memory' else ''
        again = [name for hook in self.hooks for name in hook['functions']]
        recomputed = f'; recomputed in backward: {", ".join(again)}' if again else ''
        return f'{self.num_modules} modules{cuts}, each trained by {self.form.said}{eager}{recomputed}.'


def localize(cfg: Config, num_modules: int = 4, lean: bool = False, **settings: Any) -> Config:
    """Return a config that trains by modules what `cfg`, a whole config of plain training, trains end to end.

    It is `cfg` with the keys of `local_learning`: hooks, mixed precision, schedule, clipping and accumulation stay.
    Neck, head and tail of the auxiliaries are chosen by the host library and by what `cfg` has; the first form of which
    the model can be built is taken, and logged. The model is built for that, without weights of a checkpoint.

    Args:
        cfg: E.g. `Config.fromfile(...)`, or `mmengine.hub.get_config('mmdet::...')`. It is not changed.
        num_modules: K.
        lean: Take the form that saves most memory: slim auxiliaries where the backbone returns the maps of its stages,
            cuts by memory, eager steps where accumulation, clipping and AMP's loss scaler allow them, heads recomputed.
        settings: Other keys of `man_mm.LocalBackbone`, in place of what is chosen.

    Raises:
        ValueError: If `cfg` has no model with a backbone, is trained by modules already, has an optim wrapper that local
            learning has no variant of, K is out of range, or nothing serves the backbone or the model.
    """
    keys = choose_keys(cfg, num_modules, lean, **settings)
    print_log(f'local learning: {keys}', logger='current')
    return keys.on(cfg)


def choose_keys(cfg: Config, num_modules: int = 4, lean: bool = False, **settings: Any) -> Keys:
    """What `localize` sets, as data."""
    count('num_modules', num_modules)
    Keys(num_modules, Form('', {})).on(cfg)  # refuses what no form serves
    candidates = forms(cfg, lean)
    for form in candidates:
        backbone = {**form.backbone, **settings}
        auxiliary = backbone.pop('auxiliary', form.auxiliary)
        keys = Keys(num_modules, replace(form, auxiliary=auxiliary, backbone=backbone), _for_auxiliaries(cfg))
        if lean:
            keys = _eager(keys, cfg)
        try:
            model = model_that_trains(keys.on(cfg))
        except (ValueError, AssertionError, RuntimeError):
            if form is candidates[-1]:
                raise
            continue
        functions = recomputed_functions(model) if lean else []
        hook = dict(type='man_mm.ActivationCheckpointHook', functions=functions)
        return replace(keys, hooks=[hook] if functions else [])
    raise AssertionError('every host has a form')


def _for_auxiliaries(cfg: Config) -> dict[str, Any]:
    """Upstream's multiplier of `backbone` is for pretrained weights; it would reach the auxiliaries' necks too."""
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    if 'backbone' not in (paramwise.get('custom_keys') or {}):
        return {}
    return dict(paramwise_cfg=dict(custom_keys={'backbone.auxiliaries': dict(lr_mult=1.0)}))


def _eager(keys: Keys, cfg: Config) -> Keys:
    """With eager steps, unless accumulation, clipping over all, a loss scaler or a wrapper of the model forbids them."""
    wrapper = cfg.get('optim_wrapper') or {}
    waits = wrapper.get('accumulative_counts', 1) != 1 or wrapper.get('clip_grad')
    if waits or _own_wrapper(wrapper) != OWN_WRAPPERS['OptimWrapper'] or cfg.get('model_wrapper_cfg'):
        return keys
    data_parallel = dict(type='man_mm.LocalDistributedDataParallel', find_unused_parameters=True)
    return replace(
        keys, optim_wrapper={**keys.optim_wrapper, 'eager_step': True}, top=dict(model_wrapper_cfg=data_parallel)
    )
