"""A run that was killed and resumed ends in the weights of the unbroken one, bit for bit."""

import signal

import pytest
import torch

from ..helpers.processes import python
from ..helpers.runs import make_coco, run_config, runner, write_config
from ..helpers.training import assert_equal


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco')


def final(folder):
    return torch.load(folder / 'epoch_2.pth')  # with torch's own default, weights_only=True


def test_a_killed_and_resumed_run_ends_as_the_unbroken_one(root, tmp_path):
    runner(run_config(root, tmp_path / 'unbroken', epochs=2)).train()
    killer = dict(
        hooks=[dict(type='KillHook')],
        custom_imports=dict(imports=['tests.helpers.kill_hook'], allow_failed_imports=False),
    )
    broken = run_config(root, tmp_path / 'broken', epochs=2)
    killed = python(
        'train.py', write_config(run_config(root, tmp_path / 'broken', epochs=2, **killer), tmp_path / 'killed.py')
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(p.name for p in (tmp_path / 'broken').glob('*.pth')) == ['epoch_1.pth']
    resumed = python('train.py', write_config(broken, tmp_path / 'resumed.py'), '--resume')
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = final(tmp_path / 'broken'), final(tmp_path / 'unbroken')
    assert_equal(ours['state_dict'], theirs['state_dict'])
    momenta = [state['optimizer']['state'] for state in (ours, theirs)]
    assert momenta[0].keys() == momenta[1].keys() and momenta[0]
    for key, state in momenta[0].items():
        assert torch.equal(state['momentum_buffer'], momenta[1][key]['momentum_buffer'])


def test_a_run_repeats_with_its_seed_and_differs_with_another(root, tmp_path):
    weights = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        run = runner(dict(run_config(root, tmp_path / name, epochs=1), randomness=dict(seed=seed)))
        run.train()
        weights.append(run.model.state_dict()['bbox_head.retina_cls.bias'])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
