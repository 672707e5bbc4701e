"""Shims for the installed stack."""

import subprocess
import sys

RUN = """
import atexit, os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel

from man_mm.compat import prepare_cpu_processes

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
    assert before > 0
    assert after == 0
