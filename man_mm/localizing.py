"""A whole plain config to one that trains by local learning: the keys are chosen, and may be looked at."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .config import OWN_WRAPPERS, local_learning, own_wrapper
from .forms import Form, forms, model_that_trains, recomputed_functions
from .keys import count

__all__ = ['Keys', 'choose_keys', 'localize']


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
        ValueError: If `cfg` has no model with a backbone, is trained by modules already, has an optim wrapper that
            local learning has no variant of, K is out of range, or nothing serves the backbone or the model.
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
        said = str(auxiliary.get('type')) if 'auxiliary' in settings else form.said
        keys = Keys(num_modules, Form(said, auxiliary, backbone), _for_auxiliaries(cfg))
        if lean:
            keys = _eager(keys, cfg)
        try:
            model = model_that_trains(keys.on(cfg), num_modules)
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
    """With eager steps, unless accumulation, clipping, a loss scaler or a wrapper of the model forbids them."""
    wrapper = cfg.get('optim_wrapper') or {}
    waits = wrapper.get('accumulative_counts', 1) != 1 or wrapper.get('clip_grad')
    if waits or own_wrapper(wrapper) != OWN_WRAPPERS['OptimWrapper'] or cfg.get('model_wrapper_cfg'):
        return keys
    data_parallel = dict(type='man_mm.LocalDistributedDataParallel', find_unused_parameters=True)
    return replace(
        keys, optim_wrapper={**keys.optim_wrapper, 'eager_step': True}, top=dict(model_wrapper_cfg=data_parallel)
    )
