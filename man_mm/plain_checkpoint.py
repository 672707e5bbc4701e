"""Checkpoints of the plain model: what is left of one that a `LocalBackbone` wrote, to use without this package."""

from collections.abc import Iterable, Mapping
from typing import Any

from .local.names import is_auxiliary_key

__all__ = ['TRAINING_ONLY', 'plain_checkpoint', 'plain_weights']

TRAINING_ONLY = ('optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict')
"""What MMEngine keeps in a checkpoint to go on training, and nobody else reads.

With an `EMAHook` the averaged weights, those that validation saw, are `state_dict`; `ema_state_dict` then holds the
weights of the optimizer, in spite of its name.
"""


def plain_weights(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`state_dict` under the keys of the plain upstream model, without auxiliaries."""
    return {key.removeprefix('module.'): value for key, value in state_dict.items() if not is_auxiliary_key(key)}


def plain_checkpoint(checkpoint: Mapping[str, Any], keep: Iterable[str]) -> dict[str, Any]:
    """The entries `keep` of a checkpoint, and of its weights those of the plain upstream model.

    Raises:
        ValueError: If it lacks one of these entries, or if it has others that are not known to be for training alone.
    """
    keep = set(keep)
    missing = sorted(keep - set(checkpoint))
    if missing:
        raise ValueError(f'the checkpoint has no {missing}: its keys are {sorted(checkpoint)}.')
    unknown = sorted(set(checkpoint) - keep - set(TRAINING_ONLY))
    if unknown:
        raise ValueError(
            f'the checkpoint has {unknown}, which MMEngine does not write: list them with what is to be kept '
            f'(--save-keys {" ".join(sorted(keep))} {" ".join(unknown)}), or take them out of the file first.'
        )
    return {key: plain_weights(checkpoint[key]) if key == 'state_dict' else checkpoint[key] for key in sorted(keep)}
