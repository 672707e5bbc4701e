"""Features that a trained model makes of images: by units of the backbone, or modules by their names."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..local import LocalBackbone, Unrolled, evaluating, unroll
from ..local.names import BACKBONES
from ..readout import holder_of

__all__ = ['layer_features', 'pool', 'unit_names']


def pool(feature: Tensor) -> Tensor:
    """The means over positions of maps (N, C, H, W) or tokens (N, L, C): (N, C)."""
    return feature.flatten(2).mean(2) if feature.ndim == 4 else feature.mean(1) if feature.ndim == 3 else feature


def _backbone(model: nn.Module) -> tuple[nn.Module, Unrolled]:
    """The plain backbone of a model, and its description."""
    holder = holder_of(model)
    found = next((getattr(holder, name) for name in BACKBONES if hasattr(holder, name)), None)
    if found is None:
        raise ValueError(f'{type(model).__name__} has none of {BACKBONES}: name the layers to look at.')
    if isinstance(found, LocalBackbone):
        return found.backbone, found.unrolled
    return found, unroll(found)


def unit_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the units of the model's backbone, local or plain, in the order of the forward.

    Raises:
        ValueError: If it has no backbone, or nothing describes it; see `man_mm.local.unroll`.
    """
    return tuple(unit.name for unit in _backbone(model)[1].units)


def layer_features(
    model: Any, batch: Any, reduce: Callable[[Tensor], Tensor], layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Run a model on a batch and return what `reduce` makes of the output of each layer, detached.

    Every output is reduced as soon as it is there, so never more than one whole map is kept. The model evaluates
    meanwhile, and is afterwards what it was.

    Args:
        model: A model of MMEngine with a data preprocessor.
        batch: As a data loader collates it.
        reduce: Called on each output, e.g. (N, C, H, W).
        layers: Names of modules of `model`. Those of a wrapped backbone have the plain model's names. Default: the
            ends of all units of the backbone; then nothing after the backbone runs.

    Raises:
        ValueError: If a layer is unknown, is not reached, or returns no tensor.
    """
    with evaluating(model):
        data = model.data_preprocessor(batch, False)
        return _unit_ends(model, data, reduce) if layers is None else _outputs(model, data, reduce, layers)


def _unit_ends(model: nn.Module, data: Mapping[str, Any], reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    net, unrolled = _backbone(model)
    found, x = {}, data['inputs']
    for unit in unrolled.units:
        x = unit(net, x)
        found[unit.name] = reduce(x)
    return found


def _outputs(
    model: nn.Module, data: Mapping[str, Any], reduce: Callable[[Tensor], Tensor], layers: Sequence[str]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f'layer {name!r} is a {type(module).__name__}, which returns no tensor.')
        found[name] = reduce(output)

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(_submodule(model, name).register_forward_hook(partial(keep, name)))
        model(**data, mode='tensor')
    missing = [name for name in layers if name not in found]
    if missing:
        raise ValueError(f'layers {missing} are not reached by the forward of {type(model).__name__}.')
    return {name: found[name] for name in layers}


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        known = [child for child, _ in model.named_children()]
        raise ValueError(f'layer {name!r} is unknown: {error}. The model consists of {known}.') from None
