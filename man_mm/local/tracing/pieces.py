"""From a traced forward to units, taps and `finish`: where it can be cut, and what the stages are."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from torch import Tensor, nn

from ..dry_run import Shape
from ..units import Activation, StageOutputs, Unit, Unrolled
from .forward import IMAGES, Forward, Own, Ref, Step, ancestors, filled, leaves, run_steps
from .packing import Packing, pack_of

__all__ = ['units_of']


@dataclass(frozen=True)
class _Steps:
    """What a unit does, if that is more than to apply layers in turn."""

    reads: Packing | None
    steps: tuple[Step, ...]
    makes: Packing

    def __call__(self, net: nn.Module, x: Activation) -> Activation:
        values = {IMAGES: x} if self.reads is None else self.reads.unpack(x)
        return self.makes.pack(run_steps(self.steps, net, values))


@dataclass(frozen=True)
class _Outputs:
    """`finish` of a traced backbone: the steps behind the last unit, and those that lead aside from a tap.

    Args:
        last: The last unit's output.
        taps: Pairs of a tap's name and of what it holds.
        forward: The steps, and what they lead to.
    """

    last: Packing
    taps: tuple[tuple[str, Packing], ...]
    forward: Forward

    def __call__(self, net: nn.Module, x: Activation, taps: Mapping[str, Tensor]) -> Any:
        values: dict[str, Any] = {}
        for name, packing in self.taps:
            values |= packing.unpack(taps[name])
        values |= self.last.unpack(x)
        return filled(self.forward.makes, net, run_steps(self.forward.steps, net, values))


@dataclass(frozen=True)
class _Piece:
    """Steps between two places where one tensor leads on.

    Args:
        steps: In order.
        makes: What leads on.
        path: Of its layer with most weights; where it has no layer, the name of what it makes.
        is_tapped: Whether the rest of the forward reads what it makes, too.
        has_weights: Whether it has a layer with weights. Norms, activations and pooling join a neighbour.
    """

    steps: tuple[Step, ...]
    makes: Packing
    path: str
    is_tapped: bool
    has_weights: bool

    @property
    def shape(self) -> Shape:
        return self.makes.shape

    @property
    def pixels(self) -> Shape:
        """(H, W); of what is no map, its whole shape."""
        return self.shape[1:] if self.is_map else self.shape

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 3 and all(isinstance(size, int) for size in self.shape)

    def then(self, other: '_Piece') -> '_Piece':
        """Both in one."""
        path = self.path if self.has_weights or not other.has_weights else other.path
        has_weights = self.has_weights or other.has_weights
        return replace(other, steps=(*self.steps, *other.steps), path=path, has_weights=has_weights)


def units_of(net: nn.Module, forward: Forward, values: Mapping[str, Any]) -> Unrolled:
    """The forward of `net` as units: of all values that may be the last unit's output, the one with most units before.

    Args:
        net: The backbone.
        forward: Its forward.
        values: What its steps make of one image, by name.

    Raises:
        ValueError: If there are less than two units.
    """
    weights = {
        path: sum(p.numel() for p in layer.parameters())
        for path, layer in net.named_modules()
        if any(p.dim() > 1 and p.numel() > 1 for p in layer.parameters())
    }
    overwriting = {step.result for step in forward.steps if _overwrites(net, step)}
    best: list[_Piece] = []
    for step in forward.steps:
        if pack_of({step.result: values[step.result]}) is not None:
            units = _joined(_pieces(forward, step.result, values, weights, overwriting))
            if _num_weighted(units) > _num_weighted(best) or _is_finer(units, best, net):
                best = units
    if _num_weighted(best) < 2:
        raise ValueError('there is no place behind its first layers where one tensor alone leads on')
    calls = Counter(path for piece in best for path in {step.layer for step in piece.steps} if path in weights)
    if twice := [path for path, times in calls.items() if times > 1]:
        raise ValueError(f'{twice[0]} would belong to more than one unit')
    return _unrolled(best, forward)


def _is_finer(units: Sequence[_Piece], others: Sequence[_Piece], net: nn.Module) -> bool:
    """Whether `units` are the others, and only the last one has more: layers without weights, or beside its own."""
    if not units or len(units) != len(others) or units[-1].shape != others[-1].shape:
        return False
    last, other = units[-1], others[-1]
    more = last.steps[len(other.steps) :]
    return last.steps[: len(other.steps)] == other.steps and all(
        step.is_plain and (_kinship(str(step.layer), last.path) > 0 or _has_no_weights(net, step)) for step in more
    )


def _has_no_weights(net: nn.Module, step: Step) -> bool:
    return next(net.get_submodule(str(step.layer)).parameters(), None) is None


def _num_weighted(pieces: Sequence[_Piece]) -> int:
    return sum(piece.has_weights for piece in pieces)


def _overwrites(net: nn.Module, step: Step) -> bool:
    """Whether a step works in place: what it reads would not be there for others, so that no unit may begin with it."""
    if step.layer is not None:
        layer = net.get_submodule(step.layer)  # an activation; a block of layers may have the key for one inside
        return not any(layer.children()) and getattr(layer, 'inplace', False) is True
    return step.is_in_place


def _pieces(
    forward: Forward, last: str, values: Mapping[str, Any], weights: Mapping[str, int], overwriting: Set[str]
) -> list[_Piece]:
    """What leads to `last`, in pieces; none if the rest of the forward reads what is no end of a piece."""
    steps, tapped = _leading(forward, last)
    last_read = {name: i for i, step in enumerate(steps) for name in step.reads} | {last: len(steps)}
    tensors = {name for name in tapped if pack_of({name: values[name]}) is not None}
    ends = [i for i, step in enumerate(steps) if step.result in tensors]
    for i, step in enumerate(steps):  # a size that the rest of the forward reads passes beside the next tap
        if step.result in tapped and step.result not in tensors:
            last_read[step.result] = max(last_read.get(step.result, 0), next((end for end in ends if end > i), i) + 1)
    images = pack_of({IMAGES: values[IMAGES]})
    pieces = [_Piece((), images, IMAGES, True, False)] if images is not None and IMAGES in tapped else []
    begun, alive, held = 0, [IMAGES], {IMAGES}
    for i, step in enumerate(steps):
        alive = [name for name in (*alive, step.result) if last_read.get(name, -1) > i]
        is_closed = IMAGES not in alive and (i + 1 == len(steps) or steps[i + 1].result not in overwriting)
        makes = pack_of({name: values[name] for name in alive}) if is_closed else None
        if makes is not None and not (pieces and makes.tensor == pieces[-1].makes.tensor):
            own = steps[begun : i + 1]
            layers = [s.layer for s in own if s.layer is not None]
            weight = max((weights.get(path, 0) for path in layers), default=0)
            path = next((path for path in layers if weights.get(path, 0) == weight), step.result)
            is_tapped = makes.tensor in tapped
            if is_tapped and (makes.kind in ('tensor', 'map') or makes.tensor == last):
                held |= {makes.tensor, *(name for name, _ in makes.sizes)}
            pieces.append(_Piece(own, makes, path, is_tapped, weight > 0))
            begun = i + 1
    return pieces if tapped <= held else []


def _leading(forward: Forward, last: str) -> tuple[tuple[Step, ...], frozenset[str]]:
    """The steps that lead to `last`, with those that only decide on the way; what of theirs the others read."""
    end = next(i for i, step in enumerate(forward.steps) if step.result == last)
    decided = (step.result for step in forward.steps[:end] if step.expected)
    leading = ancestors(forward.steps, {last, *decided})
    others = (step.reads for step in forward.steps if step.result not in leading)
    steps = tuple(step for step in forward.steps if step.result in leading)
    return steps, forward.returned.union(*others) & {*leading, IMAGES}


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Pieces with weights, each with its neighbours without; none if they end in one that could be left out."""
    units: list[_Piece] = []
    waiting: list[_Piece] = []  # for the next unit
    for i, piece in enumerate(pieces):
        waiting.append(piece)
        following = next((other for other in pieces[i + 1 :] if other.has_weights), None)
        if piece.has_weights:
            units.append(reduce(_Piece.then, waiting))
        elif units and not units[-1].is_tapped and _stays(piece, units, following):
            units[-1] = reduce(_Piece.then, waiting, units[-1])
        elif piece.is_tapped:
            units.append(reduce(_Piece.then, waiting))
        else:
            continue
        waiting = []
    is_idle = waiting or not units or not units[-1].has_weights
    return [] if is_idle else units


def _stays(piece: _Piece, units: Sequence[_Piece], following: _Piece | None) -> bool:
    """Whether a piece without weights belongs to the unit before it, not to the one after it.

    Pooling begins a stage, but for the stem's.
    """
    if piece.is_tapped or following is None:
        return True
    if piece.pixels != units[-1].pixels and len(units) > 1:
        return False
    return _kinship(piece.path, units[-1].path) >= _kinship(piece.path, following.path)


def _kinship(path: str, other: str) -> int:
    """How many leading parts two dotted paths share."""
    return len(_shared([path, other]))


def _shared(paths: Sequence[str]) -> list[str]:
    """The leading parts that dotted paths share."""
    parts = zip(*(path.split('.') for path in paths), strict=False)
    return [first for first, *others in itertools.takewhile(lambda level: len({*level}) == 1, parts)]


def _staged(pieces: Sequence[_Piece]) -> tuple[Unit, ...]:
    """Stages are runs of units whose outputs have one shape, and end at taps.

    So the first unit of a stage makes what the stage's end makes. Where the size of maps changes, the end of the stage
    before is a pooled tap.
    """
    numbers = [0]
    for before, after in itertools.pairwise(pieces):
        numbers.append(numbers[-1] + (before.is_tapped or before.shape != after.shape))
    names = _names([piece.path for piece in pieces])
    units: list[Unit] = []
    for i, piece in enumerate(pieces):
        stage = _stage_name([names[j] for j in range(len(pieces)) if numbers[j] == numbers[i]], names)
        is_stem = numbers[i] == 0 and numbers.count(0) == 1
        is_inner_map = numbers[i] < numbers[-1] and not is_stem and piece.is_map and not piece.is_tapped
        pooled = is_inner_map and pieces[i + 1].pixels != piece.pixels
        reads = pieces[i - 1].makes if i > 0 else None
        units.append(_unit(names[i], stage, piece, reads, pooled))
    return tuple(units)


def _names(paths: Sequence[str]) -> list[str]:
    """Paths as names: one that comes more than once gets numbers."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path] += 1
        names.append(path if seen[path] == 1 else f'{path} ({seen[path]})')
    return names


def _stage_name(members: Sequence[str], names: Sequence[str]) -> str:
    """What all members' names begin with, if no other unit's does; else the first one's."""
    shared = '.'.join(_shared(members))
    is_own = shared and all(name in members or not f'{name}.'.startswith(f'{shared}.') for name in names)
    return shared if is_own else members[0]


def _unit(name: str, stage: str, piece: _Piece, reads: Packing | None, pooled: bool) -> Unit:
    layers = [step.layer for step in piece.steps if step.layer is not None]
    values = [IMAGES if reads is None else reads.tensor, *(step.result for step in piece.steps)]
    is_chain = len({*layers}) == len(piece.steps) and all(
        step.is_plain and step.args[0].name == value for step, value in zip(piece.steps, values, strict=False)
    )
    is_chain = is_chain and all(packing is None or packing.kind == 'tensor' for packing in (reads, piece.makes))
    function = None if is_chain else _Steps(reads, piece.steps, piece.makes)
    tap = stage if piece.is_tapped or pooled else None
    return Unit(name, stage, tuple(dict.fromkeys(layers)), tap, pooled, function, _own_tensors(piece.steps))


def _unrolled(pieces: Sequence[_Piece], forward: Forward) -> Unrolled:
    """The units, and the `finish` behind them."""
    units = _staged(pieces)
    leading = {step.result for piece in pieces for step in piece.steps}
    steps = tuple(step for step in forward.steps if step.result not in leading)
    tapped = [(str(unit.tap), piece.makes) for unit, piece in zip(units, pieces, strict=True) if piece.is_tapped]
    makes, names = forward.makes, {packing.tensor: tap for tap, packing in tapped if packing.kind == 'tensor'}
    if not steps and isinstance(makes, tuple) and all(isinstance(item, Ref) and item.name in names for item in makes):
        return Unrolled(units, StageOutputs(tuple(names[item.name] for item in makes)))
    if own := _own_tensors(steps):
        raise ValueError(f'behind its last layers it reads {", ".join(own)}')
    *earlier, last = units
    finish = _Outputs(pieces[-1].makes, tuple(item for item in tapped if item[0] != last.tap), Forward(steps, makes))
    layers = dict.fromkeys(step.layer for step in steps if step.layer is not None)
    return Unrolled((*earlier, replace(last, tap=None)), finish, tuple(layers))


def _own_tensors(steps: Sequence[Step]) -> tuple[str, ...]:
    """Paths of the backbone's own tensors among the arguments of `steps`."""
    own = (item.path for step in steps for item in leaves((step.args, step.kwargs)) if isinstance(item, Own))
    return tuple(dict.fromkeys(own))
