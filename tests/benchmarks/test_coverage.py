"""benchmarks/coverage: upstream configs are tried as they are listed, and what is wrong is told from what works."""

import importlib
from pathlib import Path

import pytest

from ..helpers.training import forget_to_detach

SMALL = dict(lib='mmpretrain', path='mobilenet_v3/mobilenet-v3-small_8xb16_cifar10.py', size=32)
SELF_SUPERVISED = dict(
    lib='mmpretrain', path='mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py', kind='selfsup', views=2, size=32
)


@pytest.fixture
def program(load):
    return load('benchmarks/coverage/__main__.py')


def test_every_entry_is_an_installed_config_once(program):
    entries = program['entries']()
    names = [(entry['lib'], entry['path']) for entry in entries]
    assert len(set(names)) == len(names) > 290
    for lib, path in names:
        package = importlib.import_module(lib)
        assert (Path(package.__file__).parent / '.mim/configs' / path).exists()


def test_a_config_that_trains_works_and_one_that_does_not_is_refused_with_the_reason(program):
    trial = importlib.import_module('trial').trial
    found = trial(SMALL, 4, False)
    assert (found['outcome'], found['backbone'], found['num_modules']) == ('works', 'MobileNetV3', 4)
    found = trial(SELF_SUPERVISED, 4, False)
    assert found['outcome'] == 'refused' and 'MoCo' in found['why']


def test_a_leak_is_wrong(program, monkeypatch):
    trial = importlib.import_module('trial')
    forget_to_detach(monkeypatch)
    found = trial.trial(SMALL, 4, False)
    assert found['outcome'] == 'wrong' and 'layer' in found['why'] and 'is trained by another loss' in found['why']


@pytest.mark.long
@pytest.mark.parametrize('index', range(0, 290, 10))
def test_a_tenth_of_the_upstream_configs_neither_crashes_nor_misleads(program, index):
    entry = program['entries']()[index]
    found = importlib.import_module('trial').trial(entry, 4, False)
    assert found['outcome'] in ('works', 'refused', 'upstream fails', 'not trained'), found['why']
