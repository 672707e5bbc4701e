"""Names that models, checkpoints and this package agree on."""

__all__ = ['AUXILIARIES', 'BACKBONES', 'INNER', 'NO_HEADS', 'is_auxiliary_key']

BACKBONES = ('backbone', 'generator')
"""Names under which models hold the network that a `LocalBackbone` wraps; the second one is MMagic's."""

NO_HEADS = ('data_preprocessor', *BACKBONES, 'neck')
"""Parts of a model that are no heads."""

INNER, AUXILIARIES = 'backbone.', 'auxiliaries.'
"""Prefixes of what a `LocalBackbone` holds; the first one does not show in a state dict."""


def is_auxiliary_key(key: str) -> bool:
    """Whether a state-dict key of a model belongs to an auxiliary of its `LocalBackbone`."""
    return key.removeprefix('module.').startswith(tuple(f'{name}.{AUXILIARIES}' for name in BACKBONES))
