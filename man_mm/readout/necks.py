"""An auxiliary's neck beside the model's: a config that inherits may have changed one of them."""

import logging
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..local import Auxiliary, LocalBackbone
from ..local.dry_run import in_mode, unit_shapes
from ..versions import tree_leaves

__all__ = ['compare_necks', 'passed_over']

TRIED = (64, 64)
"""Height and width in px of an image small enough for a trial."""

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


def passed_over(neck: nn.Module, backbone: LocalBackbone) -> frozenset[str]:
    """Taps of `backbone` from which nothing flows into what the model's `neck`, and those of the auxiliaries, make.

    All are tried on a small image, in evaluation. None is passed over where that fails.
    """
    net, unrolled = backbone.backbone, backbone.unrolled
    device = next((p.device for p in backbone.parameters()), None)
    units = [(unit, module.index) for module in backbone.local_modules for unit in module.units]
    makers = {unit.tap: index for unit, index in units if unit.tap is not None and not unit.pooled}
    read: set[str] = set()
    try:
        shapes = dict(zip((unit.name for unit, _ in units), unit_shapes(net, unrolled, TRIED), strict=True))
        with torch.enable_grad(), in_mode(backbone, False), in_mode(neck, False):
            leaves = {
                unit.tap: torch.zeros(1, *shapes[unit.name], device=device, requires_grad=True)
                for unit, _ in units
                if unit.tap in makers
            }
            for module in reversed(backbone.local_modules):
                made = {tap: leaf for tap, leaf in leaves.items() if makers[tap] <= module.index}
                if not made or makers.keys() <= read:
                    break
                x = torch.zeros(1, *shapes[module.units[-1].name], device=device)
                if module.auxiliary is None:
                    levels = neck(unrolled.finish(net, x, made))
                else:
                    levels = (module.auxiliary.neck or neck)(module.auxiliary(x, made))
                read |= _reached(made, levels)
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return frozenset()  # made for other images, or for more than maps
    return frozenset(makers.keys() - read)


def _reached(leaves: dict[str, Tensor], levels: Any) -> set[str]:
    """Names of those `leaves` from which something flows into `levels`."""
    total = torch.stack([level.sum() for level in tree_leaves(levels) if isinstance(level, Tensor)]).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}


def _last(neck: Any) -> Any:
    """The neck that makes what heads read."""
    return neck[-1] if isinstance(neck, nn.Sequential) and len(neck) else neck


def _norms(neck: nn.Module) -> list[str]:
    return sorted({type(layer).__name__ for layer in neck.modules() if isinstance(layer, NORMS)})
