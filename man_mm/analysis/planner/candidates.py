"""Settings of a plan as configs, and as estimates of what they need."""

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from torch import nn

from ...keys import legal_keys, type_name
from ...local import LocalBackbone, find_local_backbone
from ...local.names import BACKBONES, NO_HEADS, at_path, backbone_path, holder_path
from ..batches import synthetic_batch
from ..cost import step_cost
from ..estimate import FakeTrainStep
from .amounts import parse_bytes
from .search import Estimate, Setting, list_settings

__all__ = ['Planner', 'local_attribute']


class Planner:
    """Turns settings into configs, and into estimates."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.attribute = _attribute_of(cfg)
        self.batches: dict[int, Any] = {}
        self.estimates: dict[Any, Estimate] = {}
        self.functions: dict[bool, list[str]] = {False: [], True: []}

    @property
    def net(self) -> Any:
        """Config of the LocalBackbone."""
        return at_path(self.cfg.model, self.attribute.split('.'))

    def budget(self, budget: Any) -> int:
        if budget is not None:
            return parse_bytes('budget', budget)
        plan = self.cfg.get('plan')
        if not isinstance(plan, dict) or set(plan) != {'memory'}:
            raise ValueError(f"plan={plan!r} must be a dict of the memory of a training step: dict(memory='6GiB').")
        return parse_bytes('plan.memory', plan['memory'])

    def prepare(self, size: tuple[int, int] | None, device: str) -> None:
        """Build the model once without auxiliaries and once with, to see what there is to choose from."""
        policy = self.net.get('partition', 'uniform')
        if not isinstance(policy, str):
            raise ValueError(
                f'model.{self.attribute}.partition={policy!r} names cuts, which a plan chooses: leave it out.'
            )
        size = size or self.net.get('probe_size')
        if size is None:
            raise ValueError(
                f'a plan needs the size of the training images: set model.{self.attribute}.probe_size to their height '
                'and width in px, or give it to plan.py by --size.'
            )
        self.size, self.device = tuple(size), device
        whole = FakeTrainStep(self.config(Setting(1)), device).model
        backbone = find_local_backbone(whole)
        self.max_modules = _trained_units(backbone)
        inner = self.net.backbone
        self.can_recompute_blocks = 'with_cp' in legal_keys(type(backbone.backbone)) and 'with_cp' not in inner
        path = holder_path(whole._modules)
        self.functions[False] = list(_functions(whole.get_submodule('.'.join(path)), ''.join(f'{p}.' for p in path)))
        if self.max_modules > 1:
            cut = FakeTrainStep(self.config(Setting(2)), device).model
            self.functions[True] = [*self.functions[False], *_auxiliary_functions(cut, self.attribute)]

    def settings(self) -> list[Setting]:
        return list_settings(
            self.max_modules,
            [self.net.partition] if 'partition' in self.net else ['uniform', 'memory'],
            _may_step_eagerly(self.cfg),
            self.can_recompute_blocks,
            [bool(set(self.functions[is_cut]) - set(self._own_functions(is_cut))) for is_cut in (False, True)],
        )

    def estimate(self, setting: Setting, report: Callable[[Estimate], None], images: int) -> Estimate:
        """Estimate a training step of a batch. Policies may agree in their cuts; then so do the estimates."""
        step = FakeTrainStep(self.config(setting), self.device)
        key = (find_local_backbone(step.model).partition.bounds, setting.blocks, setting.heads, images)
        if key not in self.estimates:
            if images not in self.batches:
                self.batches = {images: synthetic_batch(self.cfg, images, self.size)}  # one at a time: they are real
            gc.collect()  # tensors in cycles die when it runs: let that be at the same moment every time
            cost = step_cost(step, self.batches[images])
            self.estimates[key] = Estimate(setting, cost.peak_bytes, cost.split, cost.flops, images)
            report(self.estimates[key])
        return self.estimates[key]

    def config(self, setting: Setting) -> Config:
        """The config with a setting in it, and no plan."""
        cfg = copy.deepcopy(self.cfg)
        cfg.pop('plan', None)
        net = at_path(cfg.model, self.attribute.split('.'))
        net.num_modules = setting.num_modules
        if setting.partition is not None:
            net.partition = setting.partition
        if setting.blocks:
            net.backbone.with_cp = True
        if setting.eager:
            cfg.optim_wrapper.eager_step = True
        is_cut = setting.num_modules > 1
        if not is_cut:
            net.pop('tail_chunks', None)  # it acts on the last module
        new = self.functions[is_cut] if setting.heads else []
        functions = list(dict.fromkeys([*self._own_functions(is_cut), *new]))
        hooks = [hook for hook in cfg.get('custom_hooks', []) if not _is_checkpoint_hook(hook)]
        if functions:
            hooks.append(dict(type='man_mm.ActivationCheckpointHook', functions=functions))
        if hooks or 'custom_hooks' in cfg:
            cfg.custom_hooks = hooks
        return cfg

    def _own_functions(self, is_cut: bool) -> list[str]:
        """What the config itself wants to be recomputed; without cuts there are no auxiliaries."""
        hooks = filter(_is_checkpoint_hook, self.cfg.get('custom_hooks', []))
        functions = [function for hook in hooks for function in hook['functions']]
        return [function for function in functions if is_cut or '.auxiliaries.' not in function]


def local_attribute(cfg: Config) -> str | None:
    """The dotted keys from a config's model to its LocalBackbone, if there is one, e.g. `backbone`."""
    path = backbone_path(cfg.model) or ()
    net = at_path(cfg.model, path)
    is_local = isinstance(net, dict) and type_name(net.get('type')) == LocalBackbone.__name__
    return '.'.join(path) if is_local else None


def _attribute_of(cfg: Config) -> str:
    name = local_attribute(cfg)
    if name is not None:
        return name
    names = ' or '.join(f'model.{name}' for name in BACKBONES)
    raise ValueError(f"a plan is made for a LocalBackbone: {names} must be of type 'man_mm.LocalBackbone'.")


def _is_checkpoint_hook(hook: Any) -> bool:
    return isinstance(hook, dict) and type_name(hook.get('type')) == 'ActivationCheckpointHook'


def _may_step_eagerly(cfg: Config) -> bool:
    """Whether `eager_step` is left open and would be accepted; see `LocalOptimWrapper`."""
    wrapper = cfg.optim_wrapper
    clip = wrapper.get('clip_grad')
    return (
        type_name(wrapper.get('type')) == 'LocalOptimWrapper'
        and 'eager_step' not in wrapper
        and wrapper.get('accumulative_counts', 1) == 1
        and (not clip or clip.get('per_module', False))
        and cfg.get('launcher', 'none') == 'none'
    )


def _trained_units(backbone: LocalBackbone) -> int:
    """K at most: units from the first one on that trains."""
    units = backbone.unrolled.units
    trained = [any(p.requires_grad for p in unit.parameters(backbone.backbone)) for unit in units]
    return max(len(units) - trained.index(True), 1) if any(trained) else 1


def _functions(model: nn.Module, prefix: str = '') -> Iterator[str]:
    """What of necks and dense heads is worth to be recomputed, as paths for `ActivationCheckpointHook`."""
    for name, part in model.named_children():
        if name == 'neck' and any(True for _ in part.parameters()):
            yield f'{prefix}neck'
        elif name not in NO_HEADS and hasattr(type(part), 'forward_single'):
            methods = ('forward_single', 'loss_by_feat_single')
            yield from (f'{prefix}{name}.{method}' for method in methods if hasattr(type(part), method))


def _auxiliary_functions(model: nn.Module, attribute: str) -> Iterator[str]:
    first = find_local_backbone(model).auxiliaries[0]
    yield from _functions(first, f'{attribute}.auxiliaries.*.')
    yield from _functions(first.heads, f'{attribute}.auxiliaries.*.heads.')
