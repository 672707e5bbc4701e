"""Every command line of the documents is executed, or parsed by the tool that it names, with the files that it names.

Executed, as they are printed, are those that draw, convert or print a partition, and an estimate of memory; those that
train, test or measure are parsed.
"""

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from PIL import Image
from pip._internal.commands import create_command

from ..helpers.commands import ROOT, blocks, commands

WALKED = 'docs/tutorial.md'
"""Executed as a whole by test_tutorial.py."""
COMMANDS = [
    pytest.param(command.words, id=command.where) for command in commands() if not command.where.startswith(WALKED)
]
CONFIGS = [
    block for block in blocks() if block.language == 'python' and '_base_ =' in block.text and block.page != WALKED
]
ESTIMATE = 'docs/data/memory_resnet32.json'
OUTPUTS = {
    'compare_sr.py': 'out',
    'draw_overview.py': 'picture',
    'plot_frontier.py': 'picture',
    'plot_layers.py': 'picture',
    'plot_memory.py': 'picture',
    'plot_tradeoff.py': 'picture',
    'strip_auxiliary.py': 'out',
}
"""Tools whose commands are executed, and the argument that names the file that each writes."""
LAUNCHERS = {'dist_train.sh': 'train.py', 'dist_test.sh': 'test.py', 'slurm_train.sh': 'train.py'}
LAUNCH = 'torchrun() { printf "%s\\n" "$@"; }; srun() { torchrun "$@"; }; source "$0" "$@"'
"""Runs a launcher up to the program that would start the processes, and prints with what."""
FOLDERS = ('benchmarks', 'configs', 'docs', 'requirements', 'tests', 'tools')


class Parsed(BaseException):
    """Ends a tool when its arguments are parsed. No tool catches it."""


@pytest.fixture
def tool(monkeypatch):
    """Run a tool in this process as `python PATH` does; until its arguments are parsed, or to its end."""
    parse_args, register = argparse.ArgumentParser.parse_args, Registry._register_module

    def register_again(self, module, module_name=None, force=True):
        register(self, module, module_name, force=True)

    monkeypatch.setattr(Registry, '_register_module', register_again)  # classes of tools that run more than once here

    def run(script, *arguments, to_the_end=False):
        parsed = []

        def parse(parser, *args):
            parsed.append(parse_args(parser, *args))
            if not to_the_end:
                raise Parsed
            return parsed[0]

        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse)
        monkeypatch.setattr(sys, 'argv', [script, *arguments])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        try:
            runpy.run_path(str(ROOT / script), run_name='__main__')
        except Parsed:
            assert not to_the_end
        return parsed[0]

    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder like the repository, whose pictures may be overwritten, with the files that the documents name."""
    shutil.copytree(ROOT / 'docs/data', tmp_path / 'docs/data')
    (tmp_path / 'docs/images').mkdir()
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    weights = {'backbone.conv1.weight': torch.ones(2), 'backbone.auxiliaries.0.layers.0.weight': torch.ones(3)}
    torch.save(dict(meta={}, state_dict=weights), tmp_path / 'epoch_12.pth')
    photo = 'pexels-cup-of-couple-7303788.png'
    photos = {f'data/photos/val/HR/{photo}': 96, f'data/photos/val/LR_bicubic/X4/{photo}': 24}
    photos |= {f'shown/{name}/photos/{photo}': 96 for name in ('bp', 'lean')}
    for name, size in {'GT.png': 96, 'LR.png': 48, 'bp.png': 96, 'man.png': 96, **photos}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    kinds = ('weights', 'auxiliary', 'gradients', 'optimizer', 'activations', 'bank')
    peak = dict(peak_mib=3.0, timeline_mib=[1.0, 3.0, 2.0], modules=[], batch=2, size=None)
    rows = [dict(config=f'{name}.py', **peak, **{f'{kind}_mib': 0.5 for kind in kinds}) for name in ('bp', 'man')]
    for name in ('step.json', 'OUT.json'):
        (tmp_path / name).write_text(json.dumps(dict(device='cpu', rows=rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('words', COMMANDS)
def test_command_is_accepted_and_what_it_names_exists(words, tool):
    missing = [word for word in words if word.split('/')[0] in FOLDERS and not (ROOT / word).exists()]
    assert not missing
    program, first, *rest = words
    if program == 'python' and first == '-m':
        assert find_spec(rest[0])
    elif program == 'python':
        check_options(tool(first, *rest))
    elif program == 'bash':
        started = run('bash', '-c', LAUNCH, *words[1:]).splitlines()
        script = next(i for i, word in enumerate(started) if word.endswith('.py'))
        check_options(tool(f'tools/{LAUNCHERS[os.path.basename(first)]}', *started[script + 1 :]))
    elif program == 'make':
        assert run('make', '-n', *words[1:])
    else:
        assert program == 'pip'
        options, _ = create_command(first).parse_args(rest)
        assert all((ROOT / file).exists() for file in (*options.requirements, *options.constraints, *options.editables))


def run(*command):
    """What a command prints; in the repository's root."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_options(args):
    """What `--cfg-options` overrides must have a place in each config."""
    names = getattr(args, 'configs', None) or ([args.config] if 'config' in args else [])  # benchmarks name none
    for name in names:
        for key in getattr(args, 'cfg_options', None) or {}:
            place = load(name)
            for part in key.split('.')[:-1]:
                assert part in place, f'{name} has no {key}'
                place = place[part]


@cache
def load(name):
    return Config.fromfile(ROOT / name)


def first_of_each_tool(params):
    """Commands of which all but the first of each tool are long."""
    scripts = [param.values[0][1] for param in params]
    for i, param in enumerate(params):
        is_first = scripts.index(scripts[i]) == i
        yield param if is_first else pytest.param(*param.values, id=param.id, marks=pytest.mark.long)


DRAWING = [p for p in COMMANDS if os.path.basename(p.values[0][1]) in OUTPUTS]


@pytest.mark.parametrize('words', first_of_each_tool(DRAWING))
def test_command_that_draws_or_converts_does_it(words, tool, workplace):
    args = tool(*words[1:], to_the_end=True)
    assert (workplace / getattr(args, OUTPUTS[os.path.basename(words[1])])).stat().st_size > 500


@pytest.mark.parametrize('words', [p for p in COMMANDS if p.values[0][1].endswith('show_partition.py')])
def test_command_that_prints_a_partition_prints_it(words, tool, workplace, capsys):
    args = tool(*words[1:], to_the_end=True)
    rows = [line for line in capsys.readouterr().out.splitlines() if 'layer' in line or 'stem' in line]
    wanted = args.cfg_options or {}
    assert len(rows) == wanted.get('model.backbone.num_modules', load(args.config).model.backbone.num_modules)


@pytest.mark.long
def test_command_that_estimates_gives_the_committed_numbers(tool, workplace):
    (words,) = (p.values[0] for p in COMMANDS if p.values[0][-1] == ESTIMATE)
    committed = json.loads((ROOT / ESTIMATE).read_text())['rows']
    tool(*words[1:], to_the_end=True)
    for row, old in zip(json.loads((workplace / ESTIMATE).read_text())['rows'], committed, strict=True):
        assert {key: row[key] for key in old} == old


@pytest.mark.parametrize('block', CONFIGS, ids=lambda block: f'{block.page}:{block.line}')
def test_config_of_the_documents_loads_and_has_the_four_keys(block, tmp_path):
    for folder in ('bp', '_base_'):
        (tmp_path / folder).symlink_to(ROOT / 'configs' / folder)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/config.py').write_text(block.text)
    cfg = Config.fromfile(tmp_path / 'mine/config.py')
    backbone = cfg.model.get('generator', cfg.model.get('backbone'))
    assert backbone.type == 'man_mm.LocalBackbone' and backbone.backbone.type and backbone.num_modules > 1
    assert cfg.optim_wrapper.type == 'man_mm.LocalOptimWrapper' and cfg.optim_wrapper.optimizer
    assert {'type': 'man_mm.FeatureBankHook'} in cfg.custom_hooks and cfg.find_unused_parameters is True


def test_documents_print_commands_and_configs():
    assert len(COMMANDS) > 50 and len(CONFIGS) >= 3
