"""Units to modules: the published cuts, the best balance, names, frozen units, errors."""

import itertools
import random

import pytest

from man_mm.local import partition

RESNET32 = ['stem', *(f'L{stage}.{i}' for stage in (1, 2, 3) for i in range(5))]
RESNET34 = [
    'stem',
    *(f'{stage}.{i}' for stage, num in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for i in range(num)),
]


def last_units(result):
    """Name of the unit that ends each module but the last."""
    return [result.units[stop - 1] for stop in result.bounds[1:-1]]


@pytest.mark.parametrize(
    ('num_modules', 'ends'),
    [
        (1, []),
        (2, ['L2.1']),
        (4, ['L1.2', 'L2.1', 'L3.0']),
        (8, ['L1.0', 'L1.2', 'L1.4', 'L2.1', 'L2.3', 'L3.0', 'L3.2']),
        (16, RESNET32[:-1]),
    ],
)
def test_uniform_cuts_of_resnet32_are_the_published_ones(num_modules, ends):
    assert last_units(partition(RESNET32, num_modules)) == ends


def test_uniform_cuts_of_resnet34_are_the_published_ones():
    result = partition(RESNET34, 8)
    modules = [result.units[slice(*result.span(m))] for m in range(8)]
    expected = 'stem 1.0|1.1 1.2|2.0 2.1|2.2 2.3|3.0 3.1 3.2|3.3 3.4|3.5 4.0|4.1 4.2'
    assert [list(module) for module in modules] == [part.split() for part in expected.split('|')]
    assert last_units(partition(RESNET34, 17)) == RESNET34[:-1]


@pytest.mark.parametrize('num_units', [1, 2, 7, 16, 51])
def test_every_number_of_modules_cuts_into_non_empty_runs_that_cover_all_units(num_units):
    names = [str(i) for i in range(num_units)]
    for num_modules in range(1, num_units + 1):
        for costs in (None, [1.0] * num_units):
            result = partition(names, num_modules, 'uniform' if costs is None else 'memory', costs=costs)
            assert result.num_modules == num_modules
            spans = [result.span(m) for m in range(num_modules)]
            assert all(start < stop for start, stop in spans)
            assert [i for span in spans for i in range(*span)] == list(range(num_units))


def largest(costs, bounds):
    return max(sum(costs[a:b]) for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize('num_modules', [1, 2, 3, 5])
def test_the_memory_policy_is_as_balanced_as_brute_force(num_modules):
    rng = random.Random(num_modules)
    for _ in range(40):
        costs = [rng.choice([0, 1, 2, 5, 9, 30]) for _ in range(rng.randint(num_modules, 8))]
        names = [str(i) for i in range(len(costs))]
        got = largest(costs, partition(names, num_modules, 'memory', costs=costs).bounds)
        every = itertools.combinations(range(1, len(costs)), num_modules - 1)
        assert got == min(largest(costs, (0, *cuts, len(costs))) for cuts in every)


def test_named_cuts_end_modules_after_the_named_units():
    result = partition(RESNET32, 3, ['L1.4', 'L2.4'])
    assert last_units(result) == ['L1.4', 'L2.4']
    assert str(result).splitlines() == ['module 0 (stem .. L1.4)', 'module 1 (L2.0 .. L2.4)', 'module 2 (L3.0 .. L3.4)']
    assert partition(RESNET32, 16).name(0) == 'module 0 (stem)'


@pytest.mark.parametrize(
    ('num_modules', 'cuts', 'message'),
    [
        (2, ['L9.9'], r"partition names \['L9.9'\], which are no units.*'stem', 'L1.0'"),
        (3, ['L1.4'], 'partition names 1 cuts, but num_modules=3 needs 2'),
        (3, ['L2.4', 'L1.4'], 'in the order of the forward'),
        (3, ['L1.4', 'L1.4'], 'in the order of the forward'),
        (2, ['L3.4'], "before 'L3.4'"),
    ],
)
def test_wrong_names_are_errors_that_say_what_is_legal(num_modules, cuts, message):
    with pytest.raises(ValueError, match=message):
        partition(RESNET32, num_modules, cuts)


FROZEN = [True] * 6 + [False] * 10


@pytest.mark.parametrize('policy', ['uniform', 'memory'])
@pytest.mark.parametrize('num_modules', [2, 5, 10])
def test_frozen_units_join_module_0_with_a_note(num_modules, policy):
    result = partition(RESNET32, num_modules, policy, FROZEN, [1.0] * 16)
    assert result.num_modules == num_modules
    assert result.bounds[1] > 6
    assert result.notes == (f'{", ".join(RESNET32[:6])} train nothing and join module 0',)


def test_more_modules_than_units_that_train_are_met_with_a_note():
    result = partition(RESNET32, 12, frozen=FROZEN)
    assert result.num_modules == 10
    assert result.notes[1] == 'num_modules=12 is met with 10, the number of units that train'


def test_a_cut_among_frozen_units_is_refused():
    with pytest.raises(ValueError, match=r"each after the frozen units \['stem'"):
        partition(RESNET32, 2, ['L1.2'], FROZEN)


def test_frozen_units_play_no_part_in_back_propagation():
    assert partition(RESNET32, 1, frozen=FROZEN).notes == ()
    assert partition(RESNET32, 1, frozen=[True] * 16).num_modules == 1
    with pytest.raises(ValueError, match=r'every unit is frozen .*num_modules=1 trains the rest'):
        partition(RESNET32, 2, frozen=[True] * 16)


@pytest.mark.parametrize('num_modules', [0, -1, 17, True, 2.0, '2', None])
def test_a_number_of_modules_out_of_range_is_refused(num_modules):
    with pytest.raises(ValueError, match=f'num_modules={num_modules!r} must be an integer from 1 .* to 16'):
        partition(RESNET32, num_modules)


@pytest.mark.parametrize('policy', ['balanced', '', 3, None, {'a': 1}])
def test_an_unknown_policy_is_refused(policy):
    with pytest.raises(ValueError, match=r"partition=.* is unknown.*'uniform', 'memory'.* or a list of unit names"):
        partition(RESNET32, 4, policy)
