"""The tutorial, executed: its blocks are written and run, and print the lines that it shows, but for numbers.

The config has the lines that the page gives for a CPU, and the data set is smaller. The plan is for a test that is
marked `long`; in the walk, what it wrote is put in its place.
"""

import json
import re
import shlex
import shutil

import matplotlib.image
import pytest
import torch

from man_mm.localizing import choose_keys
from man_mm.runs.compat import read_config

from ..helpers.commands import ROOT, blocks
from ..helpers.processes import python, run

BLOCKS = [block for block in blocks() if block.page == 'docs/tutorial.md']
CONFIG, PREDICT, SMALL = (block.text for block in BLOCKS if block.language == 'python')
COMMANDS = [shlex.split(line) for block in BLOCKS if block.language == 'bash' for line in block.text.splitlines()]
SHOWN = [line for block in BLOCKS if block.language == 'text' for line in block.text.splitlines()]
PLAN = ROOT / 'docs/data/tutorial_plan.json'
PLANNED = next(line for line in SHOWN if ' fits in ' in line)
CHOSEN = next(line for line in SHOWN if line.startswith('lean.py: '))

SHRUNK = {
    'make_shapes.py': ('--num-train', 8, '--num-val', 3),
    'train.py': (
        '--cfg-options',
        *('model.backbone.num_modules=2', 'model.backbone.partition=uniform'),
        *('train_cfg.max_epochs=2', 'default_hooks.logger.interval=1'),
    ),
}
"""What the test adds to commands."""


def execute(words, folder, *more):
    """Run a command of the page in `folder`; returns what it printed."""
    script, *arguments = (word.replace('epoch_12', 'epoch_2') for word in words[1:])
    arguments += [*SHRUNK.get(script.rpartition('/')[2], ()), *more]
    if (ROOT / script).exists():
        done = python(ROOT / script, *arguments, cwd=folder)
    else:  # a process in which nothing has been imported
        done = run('python', script, *arguments, cwd=folder, PYTHONPATH='')
    assert done.returncode == 0, (words, done.stdout[-1000:], done.stderr[-3000:])
    return done.stdout + done.stderr


def without_numbers(text):
    return re.sub(r'\d+(\.\d+)?', '0', text)


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    """The folder in which the page was followed, and what was printed. The first training stops after an epoch."""
    folder = tmp_path_factory.mktemp('tutorial')
    (folder / 'mask_rcnn.py').write_text(CONFIG + SMALL)
    (folder / 'predict.py').write_text(PREDICT)
    printed = []
    for words in COMMANDS:
        if words[1] == 'tools/analysis_tools/plan.py':
            shutil.copy(folder / 'lean.py', folder / 'chosen.py')
            shutil.copy(PLAN, folder / 'plan.json')
            continue
        is_first_part = words[1].endswith('train.py') and '--resume' not in words
        printed.append(execute(words, folder, *(['train_cfg.max_epochs=1'] if is_first_part else [])))
    return folder, '\n'.join(printed)


def test_the_lines_that_the_page_shows_are_printed(walked):
    printed = {without_numbers(line).strip() for line in walked[1].splitlines()}
    wanted = [line for line in SHOWN if line not in (PLANNED, CHOSEN)]
    assert [line for line in wanted if not any(without_numbers(line) in said for said in printed)] == []


def test_the_form_that_the_page_shows_is_chosen_at_full_width(tmp_path):
    """The walk's heads are narrow already."""
    (tmp_path / 'mask_rcnn.py').write_text(CONFIG)
    assert f'lean.py: {choose_keys(read_config(str(tmp_path / "mask_rcnn.py")), 4, lean=True)}' == CHOSEN


def test_a_resumed_training_goes_on_after_the_interrupted_one(walked):
    first, last = (torch.load(walked[0] / f'run/epoch_{i}.pth', weights_only=False)['meta'] for i in (1, 2))
    assert last['iter'] == 2 * first['iter'] > 0
    assert f'resumed epoch: 1, iter: {first["iter"]}' in walked[1]


def test_the_prediction_is_plain_mmdetections(walked):
    keys = torch.load(walked[0] / 'plain.pth', weights_only=False)['state_dict']
    assert 'backbone.layer4.1.conv2.weight' in keys and not [key for key in keys if 'auxiliaries' in key]
    assert 'instances, man_mm imported: False' in walked[1] and 'unexpected key' not in walked[1]


def test_every_step_has_its_picture(walked):
    pictures = re.findall(r'images/tutorial_(\w+\.\w+)', (ROOT / 'docs/tutorial.md').read_text())
    assert len(pictures) == 5
    for name in (*pictures, 'found.png'):
        assert matplotlib.image.imread(walked[0] / name).std() > 0.02


def test_the_plan_that_the_page_shows_is_the_committed_one():
    plan = json.loads(PLAN.read_text())
    bp, chosen = plan['rows'][0], next(row for row in plan['rows'] if row['chosen'])
    peaks = (f'{plan["budget_bytes"] / 2**20:.1f}', f'{chosen["peak_mib"]:.1f}', f'{bp["peak_mib"]:.1f}')
    assert tuple(re.findall(r'([\d.]+) MiB', PLANNED)) == peaks
    assert f'{chosen["gflops"] / bp["gflops"]:.2f} times the operations' in PLANNED
    assert PLANNED.startswith(f'K={chosen["num_modules"]} {chosen["partition"]}')
    assert f'{len(plan["rows"])} settings estimated' in PLANNED


@pytest.mark.long
def test_the_plan_of_the_page_is_made(tmp_path):
    (tmp_path / 'mask_rcnn.py').write_text(CONFIG)
    for tool in ('localize.py', 'plan.py'):
        words = next(words for words in COMMANDS if words[1].endswith(tool))
        done = python(ROOT / words[1], *words[2:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    assert PLANNED in done.stdout
    assert json.loads((tmp_path / 'plan.json').read_text())['rows'] == json.loads(PLAN.read_text())['rows']
