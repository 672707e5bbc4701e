"""benchmarks/protocol.py: every method gets its own best learning rate, and no best one is at an end of the grid."""

import json

import pytest


@pytest.fixture
def benchmark(load, monkeypatch, tmp_path):
    """A benchmark whose runs score what `scores(method, lr)` says."""

    def benchmark(scores, *arguments):
        program = load('benchmarks/protocol.py')
        monkeypatch.setattr(
            'sys.argv', ['x', '--work-dir', str(tmp_path), '--json', str(tmp_path / 'x.json'), *arguments]
        )
        settings = dict(data='none', metric='top1', unit='epochs', variants={}, prepare=None, ablation_lr=0.1)
        settings |= dict(
            configs=dict(bp='bp.py', man='man.py'), lrs=(0.1, 0.2, 0.4), grid_length=1, length=8, seeds=(0, 1)
        )
        made = program['Benchmark'](program['Protocol'](**settings), 'x', 'x')
        made.train_all = lambda runs: {run: scores(run.method, run.lr) for run in runs}
        made.main()
        return {row['method']: row for row in json.loads((tmp_path / 'x.json').read_text())['rows']}

    return benchmark


def peak(best):
    """Scores that fall by how far a rate is from the method's best one."""
    return lambda method, lr: 90.0 - abs(lr / best[method] - 1)


def test_the_grid_goes_on_while_the_best_rate_is_at_its_end(benchmark):
    rows = benchmark(peak(dict(bp=0.05, man=1.6)))
    assert (rows['bp']['lr'], rows['man']['lr']) == (0.05, 1.6)
    assert list(rows['bp']['val_by_lr']) == ['0.025', '0.05', '0.1', '0.2', '0.4']
    assert list(rows['man']['val_by_lr']) == ['0.1', '0.2', '0.4', '0.8', '1.6', '3.2']


def test_a_best_rate_inside_of_the_grid_ends_it(benchmark):
    rows = benchmark(peak(dict(bp=0.2, man=0.2)))
    assert list(rows['bp']['val_by_lr']) == ['0.1', '0.2', '0.4'] and rows['bp']['lr'] == 0.2
    assert list(rows['bp']['test_by_seed']) == ['0', '1']


def test_one_rate_is_taken_as_it_is(benchmark):
    rows = benchmark(peak(dict(bp=0.2, man=0.2)), '--lrs', '0.3')
    assert rows['man']['lr'] == 0.3 and rows['man']['val_by_lr'] == {}


def test_a_method_that_learns_nothing_ends_the_search(benchmark):
    rows = benchmark(lambda method, lr: 10.0)
    assert len(rows['bp']['val_by_lr']) == 9
