"""Optimizer constructors that know layers by their names see the model as it is without the wrapper of its backbone."""

import copy
from functools import wraps
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from ..local import LocalBackbone
from ..local.names import AUXILIARIES, BACKBONES

__all__ = ['without_wrapper']


def without_wrapper(model: nn.Module) -> nn.Module:
    """A view of `model`, of the same parameters, that holds its backbone itself, and the auxiliaries beside it.

    So the backbone's parameters have the names, and the backbone the class, that upstream's rules for layer-wise
    learning rates look for (MMDetection's and MMSegmentation's ConvNeXt, MMPretrain's `get_layer_depth`, MMPose's ViT);
    auxiliaries are like heads to them. A model without a `LocalBackbone` is returned as it is.
    """
    wrapped = {name: child for name, child in model.named_children() if isinstance(child, LocalBackbone)}
    if not wrapped.keys() & {*BACKBONES}:
        return model
    view = copy.copy(model)
    ((name, wrapper),) = wrapped.items()
    vars(view)['_modules'] = {**model._modules, name: wrapper.backbone, AUXILIARIES[:-1]: wrapper.auxiliaries}
    return view


def _serve_constructors() -> None:
    """Patch MMEngine's constructor; its own rules go by parts of names, which the wrapper leaves as they are."""
    plain = DefaultOptimWrapperConstructor.__call__

    @wraps(plain)
    def construct(self: Any, model: nn.Module) -> OptimWrapper:
        if type(self).add_params is not DefaultOptimWrapperConstructor.add_params:
            model = without_wrapper(getattr(model, 'module', model))
        return plain(self, model)

    DefaultOptimWrapperConstructor.__call__ = construct


_serve_constructors()
