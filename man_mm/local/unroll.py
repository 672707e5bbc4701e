"""From a backbone to its units: by a registered description, or by a trace of its forward."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten

from ..versions import tree_leaves
from .dry_run import copy_and_image, image_channels, image_size, in_mode
from .tracing import SIZES, Size, units_by_trace
from .units import Activation, Unrolled, run_units

__all__ = ['register_unroll', 'unroll']

Describe = Callable[[nn.Module], Unrolled]
_DESCRIPTIONS: dict[str, Describe] = {}
_CHECKED: dict[str, frozenset[str]] = {}
"""Of each description that was checked, the units that have to run on copies of their inputs."""


def _dotted(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def register_unroll(*owners: str | type[nn.Module]) -> Callable[[Describe], Describe]:
    """Register a description of a backbone family: a function from the backbone to its `Unrolled`.

    A backbone whose forward `torch.fx` can trace needs none.

    Args:
        owners: The classes whose `forward` it describes, as classes or dotted names (which need no import).
            Subclasses that inherit this very `forward` are covered; a subclass that overrides it is not.
    """

    def register(describe: Describe) -> Describe:
        for owner in owners:
            _DESCRIPTIONS[owner if isinstance(owner, str) else _dotted(owner)] = describe
        return describe

    return register


def unroll(backbone: nn.Module, size: Size | None = None) -> Unrolled:
    """Return the units of `backbone`: as registered for the class that defines its `forward`, else as traced.

    Units, taps and `finish` are held against the backbone's own forward on random images, in training and in
    evaluation, once for every backbone of a process that is built alike. A unit that changes its input in place gets a
    copy of it. Upstream's `train()` is called, since some backbones freeze their first stages there.

    Args:
        backbone: What to unroll.
        size: Height and width in px of the images that it is built for, by which its forward may decide. By default
            its `img_size`, if it has one.

    Raises:
        ValueError: If nothing describes it and its forward cannot be traced, or if the units do not make what it makes.
    """
    backbone.train(backbone.training)
    owner = _dotted(next(cls for cls in type(backbone).__mro__ if 'forward' in vars(cls)))
    describe = _DESCRIPTIONS.get(owner)
    size = size or image_size(getattr(backbone, 'img_size', None))
    own = [] if size is None else [size]
    unrolled = _traced(backbone, owner, [*own, *SIZES]) if describe is None else describe(backbone)
    has_values = not any(p.is_meta or isinstance(p, FakeTensor) for p in backbone.parameters())
    key = f'{owner} {backbone} {unrolled} {has_values}'
    if key not in _CHECKED:
        sizes = [*own, *SIZES] if describe is None else [*SIZES, *own]
        copying = _changing(backbone, unrolled, sizes)
        if has_values:
            _check(backbone, _with_copies(unrolled, copying), owner, sizes)
        _CHECKED[key] = copying
    return _with_copies(unrolled, _CHECKED[key])


def _with_copies(unrolled: Unrolled, names: Collection[str]) -> Unrolled:
    """With units of these names on copies of their inputs."""
    units = (replace(unit, copies_input=True) if unit.name in names else unit for unit in unrolled.units)
    return replace(unrolled, units=tuple(units))


def _traced(backbone: nn.Module, owner: str, sizes: Sequence[Size]) -> Unrolled:
    try:
        return units_by_trace(backbone, sizes)
    except Exception as error:
        refused = _refusal_of_images(backbone, sizes)
        if refused is not None:
            raise ValueError(
                f'backbone: {type(backbone).__name__} cannot be unrolled: its forward takes no batch of images '
                f'(N, C, H, W) of {" or ".join(f"{h} x {w}" for h, w in sizes)} px ({refused}). Local learning serves '
                'networks of images, by one argument: none of videos, of images with masks or coordinates, or of '
                'another size without an img_size.'
            ) from error
        raise ValueError(
            f'backbone: {type(backbone).__name__} cannot be unrolled: nothing describes {owner}.forward, and torch.fx '
            f'cannot trace it ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]}). Describe it with '
            f'man_mm.local.register_unroll, see docs/extend.md. Described are: {", ".join(sorted(_DESCRIPTIONS))}.'
        ) from error


def _refusal_of_images(backbone: nn.Module, sizes: Iterable[Size]) -> str | None:
    """What the backbone's own forward says to images, if it takes none of any of `sizes`."""
    said = None
    for size in sizes:
        try:
            own, image = copy_and_image(backbone, size, 'cpu')
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                own(image)
        except Exception as error:
            said = said or f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
        else:
            return None
    return said


def _changing(backbone: nn.Module, unrolled: Unrolled, sizes: Iterable[Size]) -> frozenset[str]:
    """The names of units that change in place what they are given: an auxiliary and the next module read it, too.

    Needs no values: found on images of the first of `sizes` that the units take.
    """
    like = next(backbone.parameters(), torch.zeros(()))
    for size in sizes:
        found = set()
        try:
            with _untouched(backbone, training=True):
                x: Activation = like.new_zeros(2, image_channels(backbone) or 3, *size)
                for unit in unrolled.units:
                    given, versions = x, _versions(x)
                    x, _ = run_units([unit], backbone, given)
                    if _versions(given) != versions:
                        found.add(unit.name)
        except Exception:  # not of this size, or not on this machine
            continue
        return frozenset(found)
    return frozenset()


def _check(backbone: nn.Module, unrolled: Unrolled, owner: str, sizes: Iterable[Size]) -> None:
    """Hold the units against the backbone's own forward, on images of the first of `sizes` that both take.

    Raises:
        ValueError: If they make something else, or take no image that the backbone takes.
    """
    failed: Exception | None = None
    for size in sizes:
        channels = image_channels(backbone) or 3
        images = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
        for training in (True, False):
            try:
                with _untouched(backbone, training):
                    expected = backbone(images.clone())
                    buffers = _buffers(unrolled, backbone)
            except Exception:  # not of this size, or not on this machine
                break
            try:
                with _untouched(backbone, training):
                    made = _made(unrolled, backbone, images.clone())
                    own_buffers = _buffers(unrolled, backbone)
            except Exception as error:
                failed = failed or error
                break
            if not _is_same((made, own_buffers), (expected, buffers)):
                mode = 'training' if training else 'evaluation'
                raise ValueError(
                    f'backbone: the units of {type(backbone).__name__} do not make what {owner}.forward makes of '
                    f'images of {size[0]} x {size[1]} px in {mode}: describe it with man_mm.local.register_unroll, see '
                    'docs/extend.md.'
                )
        else:
            return
    if failed is not None:
        raise ValueError(f'backbone: the units of {type(backbone).__name__} fail: {failed}') from failed


def _buffers(unrolled: Unrolled, backbone: nn.Module) -> list[Tensor]:
    """Copies of the buffers of all layers that units and `finish` have; stages that no output needs have none of it."""
    paths = dict.fromkeys((*(path for unit in unrolled.units for path in unit.layers), *unrolled.tail))
    return [buffer.clone() for path in paths for buffer in backbone.get_submodule(path).buffers()]


def _made(unrolled: Unrolled, backbone: nn.Module, images: Tensor) -> Any:
    """What the units and `finish` make.

    Raises:
        ValueError: If what follows the last unit changes in place what it is given. Or if a stage ends in one tensor, a
            tap, and its first unit, which SLMs take in its place, makes several.
    """
    x: Activation = images
    taps: dict[str, Tensor] = {}
    first: dict[str, tuple[str, Activation]] = {}
    for unit in unrolled.units:
        given, versions = x, _versions(x)
        x, made = run_units([unit], backbone, given)
        taps |= made
        name, begun = first.setdefault(unit.stage, (unit.name, x))
        if unit.tap is not None and not isinstance(begun, Tensor):
            raise ValueError(f'{name} makes {len(begun)} tensors, and {unit.name}, the end of its stage, makes one')
        if _versions(given) != versions:
            raise ValueError(f'{unit.name} changes its input in place, in evaluation only')
    versions = _versions((x, *taps.values()))
    result = unrolled.finish(backbone, x, taps)
    if _versions((x, *taps.values())) != versions:
        raise ValueError('what follows the last unit changes its input in place: make that operation one out of place')
    return result


def _versions(value: Any) -> list[int]:
    return [tensor._version for tensor in tree_leaves(value)]


@contextmanager
def _untouched(net: nn.Module, training: bool) -> Iterator[None]:
    """As `in_mode`, without gradients and from one seed; buffers and the random state come back, too."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with in_mode(net, training), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


def _is_same(made: Any, expected: Any) -> bool:
    """Whether two outputs are equal to the bit, in containers of the same kinds."""
    (own, own_kind), (other, other_kind) = tree_flatten(made), tree_flatten(expected)
    return own_kind == other_kind and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(own, other, strict=True)
    )
