"""AugLocal (Ma et al., ICLR 2024): a copy of some later units' architecture, deeper for earlier modules."""

import copy
from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from ..keys import count, strict_keys
from ..local import Activation, Site, Unit, copy_layers, layers_of, read_width
from ..registry import MODELS
from .classifier import ClassifierAuxiliary
from .layers import reset_weights

__all__ = ['AugLocal', 'auxiliary_depth', 'chosen_units']


@MODELS.register_module()
@strict_keys
class AugLocal(ClassifierAuxiliary):
    """Units spread evenly over the rest of the backbone, with fresh weights, then pooling and a classifier.

    A unit that does not fit the one before it, because units between them are left out, takes the shape of its stage's
    first unit, which changes width and size.

    Args:
        depth: d, units in the auxiliary of module 0.
        decay: tau; the depth falls linearly to d (1 - tau) + tau in the last module that has an auxiliary.
        kwargs: See `ClassifierAuxiliary`.

    Raises:
        ValueError: If `depth` or `decay` is out of range, or the backbone's units cannot be made to fit.
    """

    def __init__(self, site: Site, depth: int, decay: float = 0.5, **kwargs: Any) -> None:
        super().__init__(site, **kwargs)
        count('auxiliary.depth', depth)
        if not (isinstance(decay, (int, float)) and 0 <= decay <= 1):
            raise ValueError(f'auxiliary.decay={decay!r} must be a number from 0 to 1.')
        if not all(isinstance(size, int) for shape in site.shapes() for size in shape):
            raise ValueError(
                f"auxiliary.type='man_mm.AugLocal' copies units that pass one tensor on, but units of "
                f'{type(site.net).__name__} pass several. man_mm.SLM serves such a backbone.'
            )
        if len(site.shapes()[-1]) == 3 and site.unrolled.tail:
            raise ValueError(
                f"auxiliary.type='man_mm.AugLocal' does not know {list(site.unrolled.tail)}, which "
                f'{type(site.net).__name__} applies to its maps after the last unit.'
            )
        own_depth = auxiliary_depth(site.module, site.partition.num_modules, depth, decay)
        indices = chosen_units(site.end - 1, len(site.unrolled.units) - 1, own_depth)
        shape = site.shapes()[site.end - 1]
        self.units = nn.ModuleList()
        for index in indices:
            layers, shape = _fitting_unit(site, index, shape)
            self.units.append(layers)
        self.num_features = shape[0] if len(shape) == 3 else shape[-1]
        if len(shape) != 3 and any(unit.tap for unit in site.unrolled.units):
            raise ValueError(
                "auxiliary.type='man_mm.AugLocal' makes one vector an image: backbone.out_indices must name one layer."
            )
        self.tail = copy_layers(site.net, site.unrolled.tail)
        self.finish = None if len(shape) == 3 else site.unrolled.finish
        self.norm = nn.BatchNorm1d(self.num_features) if own_depth <= 1 else nn.Identity()
        self.least_images = 2 if own_depth <= 1 else 1

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Tensor:
        """See `ClassifierAuxiliary.forward`."""
        assert isinstance(x, Tensor)
        if not isinstance(self.norm, nn.Identity):
            self.refuse_single_image(x)
        made = x
        for unit in self.units:
            made = unit(made)
        if self.finish is not None:
            made = self.finish(self.tail, made, taps)[-1]
        return self.norm(made.mean((2, 3)) if made.dim() == 4 else made)

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`."""
        return (*layers_of(self), self.num_features)

    def init_weights(self) -> None:
        """Draw all layers afresh; the head follows its own config."""
        super().init_weights()
        for layers in (self.units, self.tail, self.norm):
            reset_weights(layers)


def auxiliary_depth(module: int, num_modules: int, depth: int, decay: float) -> int:
    """Units in the auxiliary of `module`: from `depth` in module 0 linearly to `depth (1 - decay) + decay`."""
    share = decay * module / max(num_modules - 2, 1)
    return max(1, round(depth * (1 - share) + share))


def chosen_units(index: int, last: int, depth: int) -> list[int]:
    """`depth` units spread evenly from after unit `index` to unit `last`; all of them if there are fewer."""
    if depth >= last - index:
        return list(range(index + 1, last + 1))
    return [round(index + (last - index) / depth * i) for i in range(1, depth + 1)]


def _fitting_unit(site: Site, index: int, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """A copy of unit `index` that reads an activation of `shape`, and the shape that it makes.

    Where units between were left out, it is the first unit of the stage, with its stride and its shortcut, made to
    read the channels that come. One unit halves the size once: a second halving is left to the next unit.
    """
    shapes, units = site.shapes(), site.unrolled.units
    if units[index].function is not None:
        raise ValueError(
            f"auxiliary.type='man_mm.AugLocal' cannot copy {units[index].name}: it is more than its layers in turn."
        )
    if shape == shapes[index - 1]:
        return _copied(site.net, units[index]), shapes[index]
    first = next(i for i, unit in enumerate(units) if unit.stage == units[index].stage)
    layers = _copied(site.net, units[first])
    if shape[0] != shapes[first - 1][0]:
        _read(layers, shape[0], units[first].name)
    strides = [round(old / new) for old, new in zip(shapes[first - 1][1:], shapes[first][1:], strict=True)]
    sizes = (-(-size // stride) for size, stride in zip(shape[1:], strides, strict=True))
    return layers, (shapes[first][0], *sizes)


def _copied(net: nn.Module, unit: Unit) -> nn.Sequential:
    return nn.Sequential(*(copy.deepcopy(net.get_submodule(path)) for path in unit.layers))


def _read(layers: nn.Sequential, channels: int, name: str) -> None:
    """Let a residual block read another number of channels: in its first convolution and in its shortcut.

    Raises:
        ValueError: If the block is not built like a ResNet's.
    """
    block: Any = layers[0]
    shortcut = getattr(block, 'downsample', None)
    if len(layers) != 1 or not isinstance(getattr(block, 'conv1', None), nn.Conv2d) or shortcut is None:
        raise ValueError(
            f"auxiliary.type='man_mm.AugLocal' cannot make {name} ({type(block).__name__}) read {channels} channels: "
            'it knows residual blocks with conv1 and a downsample shortcut.'
        )
    for layer in (block.conv1, *shortcut):
        if isinstance(layer, nn.Conv2d):
            read_width(layer, channels)
