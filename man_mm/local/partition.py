"""Units to K modules: arithmetic on names and costs, no networks."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..keys import is_count

__all__ = ['Partition', 'balanced_cuts', 'partition']

POLICIES = ('uniform', 'memory')


@dataclass(frozen=True)
class Partition:
    """K runs of consecutive units.

    Args:
        units: Names of all units.
        bounds: K + 1 indices, from 0 to the number of units: module m holds units bounds[m] to bounds[m + 1] - 1.
        notes: What the user should know about how the wish was met.
    """

    units: tuple[str, ...]
    bounds: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_modules(self) -> int:
        return len(self.bounds) - 1

    def span(self, module: int) -> tuple[int, int]:
        """Index of the first unit of `module`, and of the first one after it."""
        return self.bounds[module], self.bounds[module + 1]

    def name(self, module: int) -> str:
        """E.g. `module 3 (layer1.2 .. layer2.1)`."""
        start, stop = self.span(module)
        first, last = self.units[start], self.units[stop - 1]
        return f'module {module} ({first if first == last else f"{first} .. {last}"})'

    def __str__(self) -> str:
        return '\n'.join(self.name(m) for m in range(self.num_modules))


def partition(
    units: Sequence[str],
    num_modules: int,
    policy: str | Sequence[str] = 'uniform',
    frozen: Sequence[bool] | None = None,
    costs: Sequence[float] | None = None,
) -> Partition:
    """Cut `units` into `num_modules` runs.

    Args:
        units: Unit names in order.
        num_modules: K, 1 to the number of units.
        policy: `uniform` cuts after unit round(i n / K), rounding half to even (InfoPro's rule for its published K);
            `memory` makes the costliest module as cheap as can be; a list names the last unit of modules 0 to K - 2.
        frozen: Which units have nothing to train. Leading ones join the first module with something to train.
        costs: Cost of each unit, e.g. activation bytes; for `memory`.

    Raises:
        ValueError: If K is no integer from 1 to the number of units, or the policy or a unit name is unknown.
    """
    names = tuple(units)
    _check_num_modules(num_modules, len(names))
    lead = 0 if num_modules == 1 else _num_leading(frozen or ())  # back-propagation does not mind frozen units
    if lead == len(names):
        raise ValueError(
            f'num_modules={num_modules}: every unit is frozen (backbone.frozen_stages), so there is nothing for local '
            'learning to train. num_modules=1 trains the rest of the model by back-propagation.'
        )
    notes = [f'{", ".join(names[:lead])} train nothing and join module 0'] if lead else []
    if isinstance(policy, (list, tuple)):
        cuts = _named_cuts(names, num_modules, policy, lead)
    else:
        free = len(names) - lead
        if num_modules > free:
            notes.append(f'num_modules={num_modules} is met with {free}, the number of units that train')
        cuts = [lead + cut for cut in _cuts(free, min(num_modules, free), policy, costs and costs[lead:])]
    return Partition(names, (0, *cuts, len(names)), tuple(notes))


def _num_leading(frozen: Sequence[bool]) -> int:
    """How many units at the beginning are frozen."""
    return next((i for i, is_frozen in enumerate(frozen) if not is_frozen), len(frozen))


def _cuts(num_units: int, num_modules: int, policy: object, costs: Sequence[float] | None) -> list[int]:
    if policy not in POLICIES:
        raise ValueError(f'partition={policy!r} is unknown. Choose one of {POLICIES}, or a list of unit names.')
    if policy == 'uniform':
        return [round(i * num_units / num_modules) for i in range(1, num_modules)]
    assert costs is not None and len(costs) == num_units
    return balanced_cuts(costs, num_modules)


def _check_num_modules(num_modules: int, num_units: int) -> None:
    if not is_count(num_modules) or num_modules > num_units:
        raise ValueError(
            f'num_modules={num_modules!r} must be an integer from 1 (plain back-propagation) to {num_units}, '
            'the number of units of this backbone.'
        )


def _named_cuts(names: tuple[str, ...], num_modules: int, last_units: Sequence[str], lead: int) -> list[int]:
    unknown = [name for name in last_units if name not in names]
    if unknown:
        raise ValueError(f'partition names {unknown}, which are no units of this backbone. Its units: {list(names)}.')
    cuts = [names.index(name) + 1 for name in last_units]
    if cuts != sorted(set(cuts)) or len(names) in cuts or any(cut <= lead for cut in cuts):
        raise ValueError(
            f'partition={list(last_units)} must name the last unit of every module but the last one, in the order of '
            f'the forward, each after the frozen units {list(names[:lead])} and before {names[-1]!r}.'
        )
    if len(cuts) != num_modules - 1:
        raise ValueError(f'partition names {len(cuts)} cuts, but num_modules={num_modules} needs {num_modules - 1}.')
    return cuts


def balanced_cuts(costs: Sequence[float], num_modules: int) -> list[int]:
    """Cuts of the partition into `num_modules` non-empty runs whose largest sum of costs is smallest."""
    num = len(costs)
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    # best[k][i]: smallest largest sum of the first i costs in k runs, and where the last of these runs starts
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for k in range(1, num_modules + 1):
        best.append(
            {
                i: min((max(best[k - 1][j][0], total[i] - total[j]), j) for j in best[k - 1] if j < i)
                for i in range(k, num + 1)
                if any(j < i for j in best[k - 1])
            }
        )
    cuts = [num]
    for k in range(num_modules, 0, -1):
        cuts.append(best[k][cuts[-1]][1])
    return cuts[-2:0:-1]
