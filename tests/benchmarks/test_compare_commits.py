"""The comparison of two commits says equal to what is equal to the bit, and names what differs first."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / 'benchmarks' / 'compare_commits.py'
NAN = float('nan')


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_commits', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(**changes):
    tensors = {'loss/0': torch.tensor([1.0, NAN]), 'weights/a': torch.zeros(2, 3), 'weights/b': torch.ones(0)}
    return {**tensors, **changes}


def test_equal_results_have_no_difference(tool):
    transposed = torch.zeros(3, 2).T  # values and shape are compared, the layout is not
    assert tool.first_difference(result(), {**result(), 'weights/a': transposed}) is None
    assert tool.first_difference({}, {}) is None


@pytest.mark.parametrize(
    ('new', 'expected'),
    [
        ({'weights/a': torch.full((2, 3), 0.5)}, r'weights/a: up to 0\.5 of 0 \(1 of 3 differ\)'),
        ({'weights/a': -torch.zeros(2, 3)}, 'weights/a: up to 0 of 0'),
        ({'loss/0': torch.tensor([1.0, 2.0]), 'weights/b': torch.ones(1)}, r'loss/0: .* \(2 of 3 differ\)'),
        ({'weights/a': torch.zeros(3, 2)}, r'weights/a: \(2, 3\) torch.float32 became \(3, 2\)'),
        ({'weights/a': torch.zeros(2, 3).double()}, 'became .* torch.float64'),
        ({'weights/c': torch.ones(1)}, 'new adds weights/c'),
        ({'error': 'Traceback:\nValueError: no\n'}, 'new failed: ValueError: no'),
    ],
    ids=['value', 'sign of zero', 'two', 'shape', 'type', 'name', 'error'],
)
def test_the_first_difference_is_named(tool, new, expected):
    assert re.match(f'.*{expected}', tool.first_difference(result(), result(**new)))


def test_a_name_that_is_lost_is_named(tool):
    lost = {key: value for key, value in result().items() if key.startswith('loss')}
    assert tool.first_difference(result(), lost) == 'new lacks weights/a and 1 more'


def test_a_case_without_a_result_is_no_equal_one(tool, tmp_path):
    for side in ('base', 'new'):
        (tmp_path / side).mkdir()
        torch.save(result(), tmp_path / side / 'there.pth')
    torch.save(result(), tmp_path / 'base' / 'lost.pth')
    found = tool.compare(tmp_path / 'base', tmp_path / 'new', ['there', 'lost'])
    assert found == {'there': None, 'lost': 'new failed: its process ended without a result'}
