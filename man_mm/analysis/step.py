"""Training steps outside of a runner, to be measured: same model, loss, backward and optimizer as a config trains."""

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from torch.optim import Optimizer

from ..local import LocalBackbone

__all__ = ['TrainStep', 'build_model']

MOST_SKIPPED = 40
"""Steps in which a loss scaler, which halves its scale, comes from 2**16 to below any that could fit."""


def build_model(cfg: Config) -> Any:
    """Build the model of a whole config as a runner does: `data_preprocessor` may stand beside `model`."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = {**copy.deepcopy(cfg.model)}  # some models change their configs
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model_cfg)


class TrainStep:
    """Calling it makes one optimizer step of the model that a config describes.

    Args:
        cfg: A whole config. The learning-rate schedule, augmentation and pretrained weights play no part.
        device: Where to train.
        seed: What the weights are drawn from.
    """

    def __init__(self, cfg: Config, device: str = 'cpu', seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.model = self._build(cfg)
        self.model.train()
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        for hook_cfg in cfg.get('custom_hooks') or []:
            hook = HOOKS.build({key: value for key, value in hook_cfg.items() if key != 'priority'})  # the runner's key
            if hasattr(hook, 'bind'):
                hook.bind(self.model, self.optim_wrapper)

    def _build(self, cfg: Config) -> Any:
        model = build_model(cfg)
        for part in model.modules():
            if _is_pretrained(getattr(part, 'init_cfg', None)):
                part.init_cfg = None
        model.init_weights()
        return model.to(self.device)

    @property
    def optimizer(self) -> Optimizer:
        """What updates the weights."""
        return self.optim_wrapper.optimizer

    @property
    def local_backbone(self) -> LocalBackbone | None:
        """What trains module by module, if there is any."""
        found = (part for part in self.model.modules() if isinstance(part, LocalBackbone) and part.num_modules > 1)
        return next(found, None)

    @property
    def period(self) -> int:
        """Calls in which all that accumulates is stepped."""
        return self.optim_wrapper._accumulative_counts

    def warm_up(self, batch: Any) -> None:
        """Let the optimizer make its state; a loss scaler skips steps until its scale fits.

        Raises:
            ValueError: If it never steps.
        """
        stepped: list[bool] = []
        handle = self.optimizer.register_step_post_hook(lambda *_: stepped.append(True))
        try:
            for _ in range(MOST_SKIPPED):
                for _ in range(self.period):
                    self(batch)
                if stepped:
                    return
        finally:
            handle.remove()
        raise ValueError(
            f'optim_wrapper.loss_scale: the scaler has skipped {MOST_SKIPPED} steps in a row, so there is no optimizer '
            'state to measure: gradients are not finite at any scale.'
        )

    def __call__(self, batch: Any) -> None:
        """Train on `batch`, as a data loader collates it."""
        self.model.train_step(batch, self.optim_wrapper)


def _is_pretrained(init_cfg: Any) -> bool:
    """Whether weights would be loaded from a file."""
    entries = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return any('Pretrained' in str(entry.get('type')) for entry in entries if entry)
