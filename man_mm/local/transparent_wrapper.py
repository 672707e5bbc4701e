"""A wrapper around a backbone that shows neither in checkpoints nor to who looks for the backbone's attributes."""

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from torch import nn

from .names import AUXILIARIES, INNER

__all__ = ['TransparentWrapper']


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
        if not self._fit(stored, prefix + AUXILIARIES):
            if stored and not self.auxiliaries:
                print_log(
                    "LocalBackbone: num_modules=1 needs no auxiliaries; the checkpoint's are left out.", 'current'
                )
            elif stored:
                print_log(
                    'LocalBackbone: the checkpoint was trained with another num_modules, partition, share or '
                    'auxiliary; its auxiliaries are left out.',
                    logger='current',
                    level=logging.WARNING,
                )
            for key in stored:
                del state_dict[key]
        self._mirror_missing(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fit(self, stored: set[str], prefix: str) -> bool:
        """Whether `stored` are auxiliaries of this partition; ours may have more layers (EDSR x4 starts from x2)."""
        own = {prefix + key for key in self.auxiliaries.state_dict()}
        modules = [{key[len(prefix) :].split('.')[0] for key in keys} for keys in (stored, own)]
        return stored <= own and modules[0] == modules[1]

    def _mirror_missing(self, state_dict: dict[str, Any], prefix: str) -> None:
        """What auxiliaries mirror and `state_dict` lacks comes from the backbone in it."""
        for index, auxiliary in enumerate(self.auxiliaries):
            for name, source in auxiliary.mirrored_keys().items():
                if prefix + INNER + source in state_dict:
                    key = f'{prefix}{AUXILIARIES}{index}.{name}'
                    state_dict.setdefault(key, state_dict[prefix + INNER + source])

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
