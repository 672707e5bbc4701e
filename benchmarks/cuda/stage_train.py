"""tools/train.py on the demo's configs by BP, MAN and MAN --amp at once; tools/test.py; a run that is resumed.

The programs run in forks of this process, which has their imports, as `python tools/train.py ...` runs them.
"""

import json
import os
import re
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from checks import Checks
from processes import Process, forked
from steps import ROOT

WORK = ROOT / 'work_dirs/cuda'
BP, MAN = 'configs/demo/retinanet_r18_bp_shapes.py', 'configs/demo/retinanet_r18_man_k4_shapes.py'
EPOCHS, IMAGES = 2, 160
"""40 iterations; AP is near 0 then, but equal in all that should be equal."""


def main(checks: Checks) -> None:
    runs = dict(bp=(BP,), man=(MAN,)) | (dict(amp=(MAN, '--amp')) if checks.is_cuda else {})
    checks.run('data', shapes, limit=30)
    trained = checks.run('tools/train.py', train, runs, checks.left - 12, limit=600, need=12)
    checks.run('tools/train.py --resume', resume, checks.left - 5, limit=600, need=8)
    checks.run('tools/test.py', test, trained.get('man', {}).get('ap'), checks.left - 1, limit=600, need=4)


def shapes() -> dict[str, Any]:
    """What the driver began to draw."""
    recipe = WORK / 'shapes/recipe.json'
    until = time.time() + 25
    while not recipe.exists() and time.time() < until:
        time.sleep(0.2)
    return dict(ok=recipe.exists())


def start(program: str, log: str, *arguments: str) -> Process:
    """Run a program of `tools/` with the demo's data."""
    root = f'{WORK}/shapes/'
    options = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val', 'test')]
    options += [f'{part}_evaluator.ann_file={root}annotations/val.json' for part in ('val', 'test')]
    options += [f'train_cfg.max_epochs={EPOCHS}', f'train_cfg.val_interval={EPOCHS}']
    options += ['default_hooks.checkpoint.max_keep_ckpts=-1', 'default_hooks.logger.interval=1']
    options += ['model.test_cfg.score_thr=0.0']  # else a detector that has hardly learnt finds nothing to score

    few = len(os.listdir(WORK / 'shapes/train')) < IMAGES
    options.append('train_dataloader.batch_size=2' if few else f'train_dataloader.dataset.indices={IMAGES}')

    def run() -> None:
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(2)
        sys.argv = [program, *arguments, '--cfg-options', *options]
        sys.path.insert(0, str(ROOT / 'tools'))
        runpy.run_path(str(ROOT / program), run_name='__main__')

    return forked(run, str(WORK / f'{log}.log'), leads=False)


def outcome(name: str, process: Process) -> dict[str, Any]:
    """What a run left: losses of its first and last iteration, the median of the time of one, AP."""
    log = (WORK / f'{name}.log').read_text(errors='replace')
    if process.code != 0:
        return dict(code=process.code, said=log[-700:])
    files = sorted((WORK / name).glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in files[-1].read_text().splitlines()]
    steps = [line for line in lines if 'loss' in line]
    seconds = sorted(line['time'] for line in steps)[len(steps) // 2]
    ap = [line['coco/bbox_mAP'] for line in lines if 'coco/bbox_mAP' in line]
    return dict(
        code=0,
        steps=len(steps),
        loss=[steps[0]['loss'], steps[-1]['loss']],
        iteration_s=seconds,
        ap=ap[-1] if ap else None,
    )


def train(runs: dict[str, tuple[str, ...]], seconds: float) -> dict[str, Any]:
    """All at once: such a small model leaves the device idle."""
    until = time.time() + seconds
    for name in runs:
        _forget(name)
    started = {
        name: start('tools/train.py', name, *arguments, '--work-dir', str(WORK / name))
        for name, arguments in runs.items()
    }
    for process in started.values():
        process.wait(until - time.time())
        process.end()
    found = {name: outcome(name, process) for name, process in started.items()}
    return dict(ok=all(row['code'] == 0 for row in found.values()), **found)


def resume(seconds: float) -> dict[str, Any]:
    """The second epoch again, from the checkpoint of the first one: the weights that the unbroken run ended with."""
    _forget('again')
    first = str(WORK / f'man/epoch_{EPOCHS - 1}.pth')
    process = start('tools/train.py', 'again', MAN, '--resume', first, '--work-dir', str(WORK / 'again'))
    process.wait(seconds)
    process.end()
    found = outcome('again', process)
    if process.code != 0:
        return dict(ok=False, **found)
    ours, theirs = (
        torch.load(WORK / f'{name}/epoch_{EPOCHS}.pth', map_location='cpu', weights_only=False)['state_dict']
        for name in ('again', 'man')
    )
    worst = max(float((ours[name].double() - tensor.double()).abs().max()) for name, tensor in theirs.items())
    return dict(ok=worst == 0, worst=worst, **found)


def test(expected: float | None, seconds: float) -> dict[str, Any]:
    """The AP of the last checkpoint, which is what validation found."""
    checkpoint = str(WORK / f'man/epoch_{EPOCHS}.pth')
    process = start('tools/test.py', 'test', MAN, checkpoint, '--work-dir', str(WORK / 'test'))
    process.wait(seconds)
    process.end()
    log = (WORK / 'test.log').read_text(errors='replace')
    found = re.findall(r'coco/bbox_mAP: (\S+)', log)
    if process.code != 0 or not found:
        return dict(ok=False, code=process.code, said=log[-700:])
    ap = float(found[-1])
    return dict(ok=expected is not None and abs(ap - expected) < 1e-3, ap=ap, validation_ap=expected)


def _forget(name: str) -> None:
    """Logs and checkpoints of an earlier run."""
    for file in sorted((WORK / name).rglob('*'), reverse=True):
        Path.unlink(file) if file.is_file() or file.is_symlink() else os.rmdir(file)
