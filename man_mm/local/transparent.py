"""A wrapper around a backbone that shows neither in checkpoints nor to who looks for the backbone's attributes."""

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from torch import nn

__all__ = ['TransparentWrapper']

INNER, AUXILIARIES = 'backbone.', 'auxiliaries.'


class TransparentWrapper(BaseModule):
    """Holds a `backbone` and its `auxiliaries`.

    State-dict keys are the backbone's own, and `auxiliaries.*`. A checkpoint without auxiliaries that fit (a plain
    upstream one, or one of another partition) loads too: what auxiliaries mirror then starts from the loaded backbone.

    Args:
        backbone: The module to wrap.
        init_cfg: See `BaseModule`.
    """

    auxiliaries: ModuleList

    def __init__(self, backbone: nn.Module, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.backbone = backbone
        self._register_state_dict_hook(_drop_inner_prefix)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = {key for key in state_dict if key.startswith(prefix + AUXILIARIES)}
        for key in [key for key in state_dict if key.startswith(prefix) and key not in stored]:
            state_dict[prefix + INNER + key[len(prefix) :]] = state_dict.pop(key)
        if stored != {f'{prefix}{AUXILIARIES}{key}' for key in self.auxiliaries.state_dict()}:
            if stored:
                print_log(
                    'LocalBackbone: the checkpoint was trained with another num_modules, partition or auxiliary; its '
                    'auxiliaries are left out.',
                    logger='current',
                    level=logging.WARNING,
                )
            self._replace_auxiliaries(state_dict, prefix, stored)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _replace_auxiliaries(self, state_dict: dict[str, Any], prefix: str, stored: set[str]) -> None:
        """Drop the stored auxiliaries; what ours mirror comes from the backbone in `state_dict`."""
        for key in stored:
            del state_dict[key]
        for module, auxiliary in enumerate(self.auxiliaries):
            for name, source in auxiliary.mirrored_keys().items():
                if prefix + INNER + source in state_dict:
                    state_dict[f'{prefix}{AUXILIARIES}{module}.{name}'] = state_dict[prefix + INNER + source]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get('_modules', {}).get('backbone')
            if inner is None:
                raise
            return getattr(inner, name)


def _drop_inner_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """State-dict hook: the wrapper does not show in the keys."""
    for key in [key for key in state_dict if key.startswith(prefix + INNER)]:
        state_dict[prefix + key[len(prefix) + len(INNER) :]] = state_dict.pop(key)
