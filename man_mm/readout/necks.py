"""An auxiliary's neck beside the model's: a config that inherits may have changed one of them."""

import logging
from typing import Any

from mmengine.logging import print_log
from torch import nn

from ..local import Auxiliary

__all__ = ['compare_necks']

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def compare_necks(host: nn.Module, auxiliary: Auxiliary) -> None:
    """Hold an auxiliary's neck against the model's, where both feed heads of the same kind; warn of other norms.

    Raises:
        ValueError: If it makes maps of another width than the heads read.
    """
    theirs, own = _last(getattr(host, 'neck', None)), _last(auxiliary.neck)
    if theirs is None or own is None or isinstance(auxiliary.head, dict) or type(own) is not type(theirs):
        return
    made, read = (getattr(neck, 'out_channels', None) for neck in (own, theirs))
    if isinstance(made, int) and isinstance(read, int) and made != auxiliary.head_width(read):
        raise ValueError(
            f'auxiliary.neck.out_channels={made}, but the heads read {auxiliary.head_width(read)} channels: '
            f'model.neck.out_channels={read}. A config that changes model.neck after auxiliary.neck was copied '
            'from it changes auxiliary.neck, too.'
        )
    norms = [_norms(neck) for neck in (theirs, own)]
    if norms[0] != norms[1]:
        print_log(
            f'auxiliary.neck has norms {norms[1]}, model.neck {norms[0]}: if a config has changed model.neck after '
            'auxiliary.neck was copied from it, change auxiliary.neck, too.',
            logger='current',
            level=logging.WARNING,
        )


def _last(neck: Any) -> Any:
    """The neck that makes what heads read."""
    return neck[-1] if isinstance(neck, nn.Sequential) and len(neck) else neck


def _norms(neck: nn.Module) -> list[str]:
    return sorted({type(layer).__name__ for layer in neck.modules() if isinstance(layer, NORMS)})
