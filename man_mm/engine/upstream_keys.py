"""Keys of MMEngine that reach into a backbone by the names of its parts, and take upstream's forward for granted."""

from operator import attrgetter

from mmengine.config import Config
from torch import nn

from ..local import LocalBackbone

__all__ = ['refuse_upstream_keys']


def refuse_upstream_keys(cfg: Config, host: nn.Module, backbone: LocalBackbone) -> None:
    """Refuse keys that would change, or leave out, the training of modules.

    Recomputing a first block as MMEngine does gives it no gradient, for what enters a module carries none; stages are
    run block by block, so what is done to a stage has no effect; a backbone that is recomputed or traced as a whole
    makes no local loss.

    Raises:
        ValueError: If one of them names a part of `backbone`, or what holds it.
    """
    blocks = {
        part
        for unit in backbone.unrolled.units
        for path in unit.layers
        for part in backbone.backbone.get_submodule(path).modules()
    }
    for key, instead, served in (
        (
            'activation_checkpointing',
            "custom_hooks=[dict(type='man_mm.ActivationCheckpointHook', functions=[...])] or the backbone's with_cp "
            'recomputes blocks of modules',
            set(),
        ),
        ('efficient_conv_bn_eval', 'name the blocks of the backbone one by one', blocks),
    ):
        names = cfg.get(key) or []
        for name in [names] if isinstance(names, str) else names:
            part = attrgetter(name)(host)
            is_near = part in set(backbone.modules()) or backbone in set(part.modules())
            if is_near and part not in served:
                raise ValueError(
                    f'{key}={names!r}: {name} is a part of the backbone that is trained module by module, or holds it, '
                    f'and {key} takes the forward of upstream for granted. Instead, {instead}.'
                )
