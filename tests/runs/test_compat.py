"""Shims for the installed stack."""

import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from man_mm.runs.compat import prepare_cpu_processes, read_config

RUN = """
import atexit, os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from man_mm.runs.compat import prepare_cpu_processes

def threads():
    return [task.joinpath('comm').read_text().strip() for task in Path('/proc/self/task').iterdir()]

atexit.register(lambda: print(sum('gloo' in name for name in threads())))  # the first one in is the last one out
os.environ.update(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
prepare_cpu_processes(Config(dict(launcher='pytorch')))
model = MMDistributedDataParallel(torch.nn.Linear(2, 2))
model.itself = [model]  # freed by the collector alone, as a runner's is
model(torch.ones(1, 2)).sum().backward()
print(sum('gloo' in name for name in threads()))
del model
"""


def test_no_thread_of_the_process_group_outlives_the_run():
    result = subprocess.run([sys.executable, '-c', RUN], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    before, after = map(int, result.stdout.split())
    assert before > 0 or torch.__version__ < (2, 2)  # which gives its threads no names
    assert after == 0


def test_without_mmagic_a_config_for_super_resolution_says_how_to_install_it(monkeypatch):
    def missing(path):
        raise ModuleNotFoundError('mmagic is not installed, please install mmagic manually')

    monkeypatch.setattr(Config, 'fromfile', missing)
    with pytest.raises(SystemExit, match=r'sr\.py is a config for super-resolution.* -r requirements/sr\.txt'):
        read_config('configs/sr.py')


def test_other_missing_modules_are_left_to_python(monkeypatch):
    def missing(path):
        raise ModuleNotFoundError("No module named 'other'")

    monkeypatch.setattr(Config, 'fromfile', missing)
    with pytest.raises(ModuleNotFoundError, match='other'):
        read_config('configs/sr.py')


def test_more_processes_than_gpus_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(SystemExit, match=r"2 processes on this machine, which has 1 GPU.*CUDA_VISIBLE_DEVICES=''"):
        prepare_cpu_processes(Config(dict(launcher='pytorch')))


def test_a_collate_function_of_an_installed_base_is_not_handed_the_name_of_its_library(tmp_path):
    (tmp_path / 'own.py').write_text("_base_ = 'mmpretrain::simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py'\n")
    for path in ('mmpretrain::simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py', str(tmp_path / 'own.py')):
        assert read_config(path).train_dataloader.collate_fn == dict(type='default_collate')
