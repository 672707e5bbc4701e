"""Names that models, checkpoints and this package agree on."""

import re
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import getitem
from typing import Any

__all__ = [
    'AUXILIARIES',
    'BACKBONES',
    'INNER',
    'NO_HEADS',
    'at_path',
    'backbone_path',
    'holder_path',
    'is_auxiliary_key',
]

BACKBONES = ('backbone', 'generator')
"""Names under which models hold the network that a `LocalBackbone` wraps; the second one is MMagic's."""

HOLDERS = ('detector',)
"""Names under which models hold the model that has backbone, neck and heads: MMDetection's trackers."""

NO_HEADS = ('data_preprocessor', *BACKBONES, 'neck')
"""Parts of a model that are no heads."""

INNER, AUXILIARIES = 'backbone.', 'auxiliaries.'
"""Prefixes of what a `LocalBackbone` holds; the first one does not show in a state dict."""


_AUXILIARY = re.compile(rf'(^|\.)({"|".join(BACKBONES)}|module\.0)\.{re.escape(AUXILIARIES)}')


def is_auxiliary_key(key: str) -> bool:
    """Whether a state-dict key of a model belongs to an auxiliary of its `LocalBackbone`, or of a momentum copy of it:
    MMPretrain averages a sequence of backbone and neck.
    """
    return _AUXILIARY.search(key) is not None


def holder_path(parts: Mapping[str, Any]) -> tuple[str, ...]:
    """Names from a model, or the config of one, by its parts, to what has backbone, neck and heads: often itself."""
    if any(name in parts for name in BACKBONES):
        return ()
    return next(((name,) for name in HOLDERS if parts.get(name) is not None), ())


def backbone_path(model: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Keys from the config of a model to that of its backbone; None where it has none."""
    path = holder_path(model)
    parts = at_path(model, path)
    return next(((*path, name) for name in BACKBONES if name in parts), None)


def at_path(model: Mapping[str, Any], path: Iterable[str]) -> Any:
    """What the config of a model has at the end of such a path."""
    return reduce(getitem, path, model)
