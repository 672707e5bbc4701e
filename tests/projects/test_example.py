"""The example project as a stranger has it: man_mm installed by pip, upstream's own tools/train.py."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import man_mm  # noqa: F401  (lets torch read MMEngine's checkpoints)

from ..helpers.commands import ROOT

EXAMPLE = ROOT / 'projects/example'
OLD_STYLE = 'retinanet_plainnet_man_k3_shapes.py'
NEW_STYLE = 'retinanet_plainnet_man_k3_shapes_new.py'
OWN_MODEL = 'counter_plainnet_probe_k3_shapes.py'
ENDINGS = ('.py', '.sh', '.yml', '.md')
TRAIN = Path(find_spec('mmdet').origin).parent / '.mim/tools/train.py'
ALL = """
import gc, runpy, sys
import mmengine.config.config as layout
layout.FormatCode = lambda text, **style: (text, True)
for config in sys.argv[2:]:
    sys.argv[1:] = [config, '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=2']
    sys.argv += ['log_level=ERROR']
    runpy.run_path({train!r}, run_name='__main__')
    gc.freeze()  # each data set has the collector look at all that is imported
print('package:', sys.modules['man_mm'].__file__)
"""
"""Upstream's script on one config after the other: importing the libraries takes longer than training, and so does the
layout of what it says of each."""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Where `pip install` put the package, from a copy of the checkout: building leaves files behind."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('site')
    for part in ('man_mm', 'configs', 'tools'):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for file in ('setup.py', 'pyproject.toml', 'README.md', 'model-index.yml'):
        shutil.copy(ROOT / file, source)
    run(source, sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '-t', target, '.')
    return target


def run(folder, *command, **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **env}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_an_installed_package_has_every_config_and_tool(installed):
    for part in ('configs', 'tools'):
        names = {str(path.relative_to(ROOT / part)) for path in (ROOT / part).rglob('*') if path.suffix in ENDINGS}
        assert len(names) > 10
        assert [name for name in names if not (installed / 'man_mm/.mim' / part / name).is_file()] == []
    assert (installed / 'man_mm/.mim/model-index.yml').is_file() and (installed / 'man_mm/py.typed').is_file()


def test_a_strangers_project_trains_by_upstreams_own_script_in_both_config_styles(installed, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    shapes = ROOT / 'tools/dataset_tools/make_shapes.py'
    run(tmp_path, sys.executable, shapes, '--num-train', '2', '--num-val', '1')
    configs = [f'configs/{name}' for name in (OLD_STYLE, OWN_MODEL, NEW_STYLE)]
    path = os.pathsep.join((str(installed), str(tmp_path)))
    printed = run(tmp_path, sys.executable, '-c', ALL.format(train=str(TRAIN)), 'train', *configs, PYTHONPATH=path)
    assert f'package: {installed}' in printed
    for config in configs:
        checkpoint = torch.load(tmp_path / 'work_dirs' / Path(config).stem / 'epoch_1.pth')
        assert {key.split('.')[2] for key in checkpoint['state_dict'] if '.auxiliaries.' in key} == {'0', '1'}
        optimizer = checkpoint['optimizer']  # it has a state for what got a gradient
        assert set(optimizer['state']) == {p for group in optimizer['param_groups'] for p in group['params']}
