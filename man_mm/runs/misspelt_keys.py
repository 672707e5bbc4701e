"""Finds misspelt keys of a config that MMEngine passes over in silence."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

__all__ = ['misspelt_keys', 'unmatched_custom_keys']

READ_BY_RUNNER = (
    'activation_checkpointing', 'broadcast_buffers', 'compile', 'custom_imports', 'detect_anomalous_params',
    'efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn',
)  # fmt: skip
TOP_LEVEL = {*inspect.signature(Runner.__init__).parameters, *READ_BY_RUNNER, 'plan'} - {'self', 'cfg'}
PARAMWISE = {
    'lr_mult', 'decay_mult', 'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult',
    'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate',
}  # fmt: skip
MULTIPLIERS = {'lr_mult', 'decay_mult'}
LIKENESS = 0.85  # what is less alike, has other words, another initial or a digit, is a variable in upstream's configs


def misspelt_keys(cfg: Config) -> list[str]:
    """One sentence for every key that nobody reads and that looks like one that is read.

    A config file may define variables of its own, so an unknown key is no error.
    """
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    place = 'optim_wrapper.paramwise_cfg.'
    sentences = [*_suspects(cfg, TOP_LEVEL, ''), *_suspects(paramwise, PARAMWISE, place)]
    for name, options in (paramwise.get('custom_keys') or {}).items():
        sentences += _suspects(options, MULTIPLIERS, f'{place}custom_keys[{name!r}].')
    return sentences


def _suspects(keys: Iterable[str], known: set[str], place: str) -> list[str]:
    found = []
    for key in sorted(key for key in set(keys) - known if key.replace('_', '').isalpha()):
        alike = [other for other in known if other[0] == key[0] and other.count('_') == key.count('_')]
        near = difflib.get_close_matches(key, alike, n=1, cutoff=LIKENESS)
        if near:
            found.append(f'the config key {place}{key} is read by nobody. Did you mean {place}{near[0]}?')
    return found


def unmatched_custom_keys(optim_wrapper: Mapping[str, Any] | None, model: nn.Module) -> list[str]:
    """One sentence for every key of `paramwise_cfg.custom_keys` that is in no parameter's name, and so does nothing."""
    paramwise = (optim_wrapper or {}).get('paramwise_cfg') or {}
    names = [name for name, _ in model.named_parameters()]
    return [
        f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}] is in no parameter name of the model, and so does nothing.'
        for key in paramwise.get('custom_keys') or {}
        if not any(key in name for name in names)
    ]
