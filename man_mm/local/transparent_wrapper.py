"""A wrapper around a backbone that shows neither in checkpoints nor to who reads or writes its attributes."""

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from torch import nn

from .auxiliary import tensors_of
from .names import AUXILIARIES, INNER

__all__ = ['TransparentWrapper']


class TransparentWrapper(BaseModule):
    """Holds a `backbone` and its `auxiliaries`.

    State-dict keys are the backbone's own, and `auxiliaries.*`. A checkpoint without auxiliaries that fit (a plain
    upstream one, or one of another partition) loads too: what auxiliaries mirror then starts from the loaded backbone.
    Attributes of the backbone are read and, once the wrapper is `complete`, written through it.

    Args:
        backbone: The module to wrap.
    """

    auxiliaries: ModuleList
    complete = False
    """Whether all attributes of the wrapper's own are there."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._to_mirror: list[dict[str, str]] = []
        self._register_state_dict_hook(_drop_inner_prefix)
        self.register_load_state_dict_post_hook(_mirror_loaded)

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
        """What auxiliaries mirror and `state_dict` lacks is to come from the backbone, when that has loaded its own:
        upstream resizes some of it on the way. Until then it stays what it is.
        """
        self._to_mirror = []
        unsaved = tensors_of(self.backbone).keys() - self.backbone.state_dict().keys()  # no checkpoint has them
        for index, auxiliary in enumerate(self.auxiliaries):
            lead, own = f'{prefix}{AUXILIARIES}{index}.', auxiliary.state_dict()
            missing = {
                name: source
                for name, source in auxiliary.mirrored_keys().items()
                if (prefix + INNER + source in state_dict or source in unsaved) and lead + name not in state_dict
            }
            state_dict.update({lead + name: own[name] for name in missing})
            self._to_mirror.append(missing)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get('_modules', {}).get('backbone')
            if inner is None:
                raise
            return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        parts = self.__dict__
        own = (parts, *(parts.get(kind, ()) for kind in ('_modules', '_parameters', '_buffers')))
        if self.complete and not hasattr(type(self), name) and not any(name in part for part in own):
            inner = self.backbone
            if hasattr(inner, name):
                setattr(inner, name, value)
                return
        super().__setattr__(name, value)


def _mirror_loaded(wrapper: TransparentWrapper, _: Any) -> None:
    """Load-state-dict post-hook: what a checkpoint has not of auxiliaries starts from what the backbone loaded."""
    sources = tensors_of(wrapper.backbone)
    for auxiliary, missing in zip(wrapper.auxiliaries, wrapper._to_mirror, strict=False):
        auxiliary.load_state_dict({own: sources[source] for own, source in missing.items()}, strict=False)
    wrapper._to_mirror = []


def _drop_inner_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """State-dict hook: the wrapper does not show in the keys."""
    for key in [key for key in state_dict if key.startswith(prefix + INNER)]:
        state_dict[prefix + key[len(prefix) + len(INNER) :]] = state_dict.pop(key)
