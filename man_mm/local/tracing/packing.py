"""What passes between two units of a traced backbone: one tensor, its sizes beside it, or several tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dry_run import Shape
from ..tokens import to_map, to_tokens
from ..units import Activation

__all__ = ['Packing', 'pack_of']


@dataclass(frozen=True)
class Packing:
    """How values of a forward become an activation, and come back out of it.

    Args:
        tensor: Name of the tensor, or of the list or tuple of tensors.
        shape: Of the activation for one image; see `Shape`.
        kind: `tensor`; `list` or `tuple` of tensors; `map`, where tokens (N, H W, C) pass as a view (N, C, H, W);
            `sizes`, where empty tensors of shape (0, *size) pass beside the tensor.
        sizes: Pairs of the name of a size and of what it is: `pair` (H, W), `height`, `width`; or, where empty tensors
            pass, `numbers` or `number`.
    """

    tensor: str
    shape: Shape
    kind: str = 'tensor'
    sizes: tuple[tuple[str, str], ...] = ()

    def pack(self, values: Mapping[str, Any]) -> Activation:
        """The activation of `values`."""
        made = values[self.tensor]
        if self.kind == 'sizes':
            return made, *(made.new_empty(0, *_numbers(values[name])) for name, _ in self.sizes)
        if self.kind in ('list', 'tuple'):
            return tuple(made)
        x: Tensor = to_map(made, self._grid(values)) if self.kind == 'map' else made
        for name, size in self.unpack(x).items():
            if name != self.tensor and _numbers(size) != _numbers(values[name]):
                raise ValueError(
                    f'a backbone was traced with {name} as the size of {self.tensor}, but of these images it is '
                    f'{values[name]}, not {size}: train on images whose sides its strides divide, or describe the '
                    'backbone with man_mm.local.register_unroll.'
                )
        return x

    def _grid(self, values: Mapping[str, Any]) -> Sequence[int]:
        found = {what: values[name] for name, what in self.sizes}
        return found['pair'] if 'pair' in found else (found['height'], found['width'])

    def unpack(self, x: Activation) -> dict[str, Any]:
        """The values of the activation `x`, by name."""
        if self.kind == 'sizes':
            made, *empty = x
            sizes = [tuple(size.shape[1:]) for size in empty]
            found = [size if what == 'numbers' else size[0] for size, (_, what) in zip(sizes, self.sizes, strict=True)]
            return {self.tensor: made, **{name: size for size, (name, _) in zip(found, self.sizes, strict=True)}}
        if self.kind in ('list', 'tuple'):
            return {self.tensor: list(x) if self.kind == 'list' else x}
        assert isinstance(x, Tensor)
        sizes_of = {'pair': tuple(x.shape[2:]), 'height': x.shape[-2], 'width': x.shape[-1]} if self.sizes else {}
        made = to_tokens(x) if self.kind == 'map' else x
        return {self.tensor: made, **{name: sizes_of[what] for name, what in self.sizes}}


def pack_of(alive: Mapping[str, Any]) -> Packing | None:
    """How values pass together, given by name as they are for one image; None, if they are not one tensor and sizes."""
    tensors = {name: value for name, value in alive.items() if _is_tensors(value)}
    sizes = {name: value for name, value in alive.items() if name not in tensors}
    if len(tensors) != 1 or not all(map(_is_size, sizes.values())):
        return None
    (name, value), *_ = tensors.items()
    if not isinstance(value, Tensor):
        kind = 'list' if isinstance(value, list) else 'tuple'
        return None if sizes else Packing(name, tuple(tuple(item.shape[1:]) for item in value), kind)
    shape = tuple(value.shape[1:])
    if not sizes:
        return Packing(name, shape)
    if len(shape) == 3:
        meant = _meant(sizes, shape[1:])
        if meant:
            return Packing(name, shape, 'tensor', meant)
    if len(shape) == 2:
        grid = _grid_of(sizes)
        meant = _meant(sizes, grid) if grid is not None and grid[0] * grid[1] == shape[0] else None
        if grid is not None and meant:
            return Packing(name, (shape[1], *grid), 'map', meant)
    numbers = tuple((name, 'number' if isinstance(size, int) else 'numbers') for name, size in sizes.items())
    return Packing(name, (shape, *((0, *_numbers(size)) for size in sizes.values())), 'sizes', numbers)


def _grid_of(sizes: Mapping[str, Any]) -> tuple[int, int] | None:
    pair = next((size for size in sizes.values() if not isinstance(size, int) and len(size) == 2), None)
    numbers = [size for size in sizes.values() if isinstance(size, int)]
    if pair is None and len(numbers) == 2:
        pair = numbers
    return None if pair is None else (int(pair[0]), int(pair[1]))


def _meant(sizes: Mapping[str, Any], grid: Sequence[int]) -> tuple[tuple[str, str], ...] | None:
    """What each size is of a map of `grid` (height, width); None, if one is neither."""
    found: list[tuple[str, str]] = []
    for name, size in sizes.items():
        if isinstance(size, int):
            what = 'height' if size == grid[0] and 'height' not in dict(found).values() else 'width'
            is_it = size == grid[0 if what == 'height' else 1]
        else:
            what, is_it = 'pair', tuple(size) == tuple(grid)
        if not is_it:
            return None
        found.append((name, what))
    kinds = {what for _, what in found}
    return tuple(found) if 'pair' in kinds or kinds == {'height', 'width'} else None


def _is_tensors(value: Any) -> bool:
    is_list = type(value) in (list, tuple) and len(value) > 0 and all(isinstance(item, Tensor) for item in value)
    return (isinstance(value, Tensor) and value.dim() > 1) or is_list


def _is_size(value: Any) -> bool:
    return bool(value) and all(type(number) is int for number in _numbers(value)) if _is_numbers(value) else False


def _is_numbers(value: Any) -> bool:
    return type(value) is int or type(value) in (tuple, list, torch.Size)


def _numbers(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
