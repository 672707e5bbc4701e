"""Train a small RetinaNet by back-propagation and by local learning with MAN, and compare them: `make demo`.

Draws a data set, measures memory and time of a training step of both, trains both with tools/train.py, and ends with a
table and two pictures below work_dirs/demo. Nothing is downloaded or stored beforehand.
"""

import contextlib
import io
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from drawing import as_xywh, count_images, draw_curves, draw_detections, pick_images
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import find_latest_checkpoint
from programs import run_python
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from man_mm.analysis.batches import first_batch
from man_mm.analysis.cost import step_cost, step_seconds
from man_mm.analysis.scalars import read_scalars
from man_mm.analysis.step import TrainStep
from man_mm.versions import add_note

ROOT = Path(__file__).resolve().parents[2]
OUT = Path('work_dirs/demo')
CONFIGS = {
    'BP': 'configs/demo/retinanet_r18_bp_shapes.py',
    'MAN': 'configs/demo/retinanet_r18_man_k4_shapes.py',
}
PHASES = (
    'drawing the data set',
    'measuring a training step of both',
    'training by BP',
    'training by MAN',
    'drawing the pictures',
)
TIMED_ROUNDS = 9
NUM_PICTURES, MIN_OBJECTS, SCORE_THRESHOLD = 4, 4, 0.4
METRICS = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
STEP_LINE = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?\bloss: ([\d.]+|nan|inf)')
LOCAL_LOSSES = re.compile(r'  local: (\S+(?: \S+)*)')
AP_LINE = re.compile(r'Epoch\(val\)\s+\[(\d+)\]\[.*?bbox_mAP: (-?[\d.]+)')

console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
progress = Progress(console=console, transient=True, speed_estimate_period=120)  # shown on terminals only


@contextlib.contextmanager
def phase(name: str) -> Iterator[TaskID]:
    """Announce a phase, and show that it is under way; how far, if the body updates the task."""
    console.print(f'\n[{1 + PHASES.index(name)}/{len(PHASES)}] {name} ...', markup=False, style='bold')
    task = progress.add_task(name, total=None)
    try:
        yield task
    except Exception as error:
        add_note(error, f'The demo failed while {name}. Logs: {OUT}')
        raise
    finally:
        progress.remove_task(task)


def measure(configs: dict[str, Config], device: str) -> dict[str, dict[str, float]]:
    """Peak bytes and median seconds of a training step of every config, all on the same batch."""
    MMLogger.get_instance('demo', logger_name='demo', log_level='ERROR')  # else every initialised weight is a line
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        batch, _ = first_batch(configs['BP'])
        peaks = {name: step_cost(TrainStep(cfg, device), batch).peak_bytes for name, cfg in configs.items()}
        seconds = step_seconds([TrainStep(cfg, device) for cfg in configs.values()], batch, TIMED_ROUNDS)
    taken = {name: statistics.median(s) for name, s in zip(configs, seconds, strict=True)}
    return {name: dict(peak_bytes=peaks[name], step_seconds=taken[name]) for name in configs}


def train(name: str, max_epochs: int, task: TaskID) -> None:
    """Train one config as a user would, showing its progress, also as that of `task`."""

    def show(line: str) -> None:
        step, validated = STEP_LINE.search(line), AP_LINE.search(line)
        if step:
            epoch, done, of, loss = int(step[1]), int(step[2]), int(step[3]), float(step[4])
            local = LOCAL_LOSSES.search(line)
            losses = f'loss {loss:.2f}' + (f', local {local[1]}' if local else '')
            console.print(f'  {name:3}  epoch {epoch}/{max_epochs}  step {done:2}/{of}  {losses}')
            progress.update(task, completed=(epoch - 1) * of + done, total=max_epochs * of)
        elif validated:
            console.print(
                f'  {name:3}  epoch {validated[1]}/{max_epochs}  validation AP {100 * float(validated[2]):.1f}'
            )

    work_dir = OUT / name.lower()
    shutil.rmtree(work_dir, ignore_errors=True)
    command = ['tools/train.py', CONFIGS[name], '--work-dir', str(work_dir)]
    run_python(command, OUT / f'{name.lower()}.log', show)


def detect(cfg: Config, work_dir: Path, files: list[str], device: str) -> list:
    """What the trained model finds on `files` above the score threshold: (boxes xywh, labels, scores) per image."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = init_detector(cfg, find_latest_checkpoint(str(work_dir)), device=device)
        results = [result.pred_instances.cpu().numpy() for result in inference_detector(model, files)]
    sure = [result[result.scores >= SCORE_THRESHOLD] for result in results]
    return [(as_xywh(found.bboxes), found.labels.tolist(), found.scores.tolist()) for found in sure]


def draw(configs: dict[str, Config], runs: dict, device: str) -> None:
    """Write detections.png and curves.png."""
    data = configs['BP'].val_dataloader.dataset
    root = Path(data.data_root)
    images = pick_images(root / data.ann_file, NUM_PICTURES, MIN_OBJECTS)
    files = [str(root / data.data_prefix.img / image['file_name']) for image in images]
    found = {
        f'{name} (score > {SCORE_THRESHOLD})': detect(cfg, OUT / name.lower(), files, device)
        for name, cfg in configs.items()
    }
    classes = {
        name: tuple(channel / 255 for channel in colour)
        for name, colour in zip(data.metainfo.classes, data.metainfo.palette, strict=True)
    }
    draw_detections(OUT / 'detections.png', root / data.data_prefix.img, images, found, classes)
    draw_curves(OUT / 'curves.png', runs)


def as_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """A line per method, and what MAN changes."""
    table = Table(title=title)
    table.add_column('')
    for heading in (*METRICS, 'peak memory (MiB)', 'seconds per step'):
        table.add_column(heading, justify='right')
    for name, row in rows.items():
        scores = (f'{row[key]:.1f}' for key in METRICS)
        table.add_row(name, *scores, f'{row["peak_bytes"] / 2**20:.1f}', f'{row["step_seconds"]:.3f}')
    bp, man = rows['BP'], rows['MAN']
    memory = f'{100 * (man["peak_bytes"] / bp["peak_bytes"] - 1):+.0f} %'
    table.add_section()
    changes = (f'{man[key] - bp[key]:+.1f}' for key in METRICS)
    table.add_row('MAN against BP', *changes, memory, f'x {man["step_seconds"] / bp["step_seconds"]:.2f}')
    return table


def report(measured: dict, runs: dict, setting: dict[str, Any]) -> None:
    """Write table.json and print the table."""
    rows = {
        name: {**{key: 100 * runs[name][1][-1][source] for key, source in METRICS.items()}, **measured[name]}
        for name in runs
    }
    (OUT / 'table.json').write_text(json.dumps(dict(setting, rows=rows), indent=2), encoding='utf-8')
    num_train, num_val = setting['num_images']
    console.print()
    console.print(as_table(rows, f'RetinaNet from scratch: {num_train} training and {num_val} validation images'))
    console.print(
        f'MAN: {setting["num_modules"]} gradient-isolated modules. Batch {setting["batch_size"]}, '
        f'{setting["device"]}, {setting["threads"]} threads, torch {setting["torch"]}.\n'
        'AP: pycocotools, after the last epoch. Memory: live tensors of one training step, i.e. weights, optimizer '
        'state,\ngradients and activations.'
    )


def run_phases() -> None:
    """Run all phases."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    configs = {name: Config.fromfile(path) for name, path in CONFIGS.items()}
    bp = configs['BP']
    max_epochs, batch_size = bp.train_cfg.max_epochs, bp.train_dataloader.batch_size

    with phase('drawing the data set'):
        make = ['tools/dataset_tools/make_shapes.py', '--out', bp.data_root]
        run_python(make, OUT / 'data.log', lambda line: console.print(f'  {line.rstrip()}', markup=False))
    datasets = [loader.dataset for loader in (bp.train_dataloader, bp.val_dataloader)]
    num_images = [count_images(Path(data.data_root) / data.ann_file) for data in datasets]

    with phase('measuring a training step of both'):
        measured = measure(configs, device)
    num_steps = max_epochs * -(-num_images[0] // batch_size)
    for name, row in measured.items():
        peak = row['peak_bytes'] / 2**20
        console.print(
            f'  {name:3}  {peak:.1f} MiB at most, {row["step_seconds"]:.3f} s a step, {num_steps} steps to come'
        )

    for name in CONFIGS:
        with phase(f'training by {name}') as task:
            train(name, max_epochs, task)

    with phase('drawing the pictures'):
        runs = {name: read_scalars(OUT / name.lower()) for name in CONFIGS}
        draw(configs, runs, device)
    setting = dict(torch=torch.__version__, device=device, threads=torch.get_num_threads(), num_images=num_images)
    setting.update(configs=CONFIGS, batch_size=batch_size, num_modules=configs['MAN'].model.backbone.num_modules)
    report(measured, runs, setting)


def main() -> None:
    os.chdir(ROOT)  # the configs name the data from here
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with progress:
        run_phases()
    for name in ('table.json', 'detections.png', 'curves.png'):
        console.print(f'  {OUT / name}')
    console.print(f'Done in {(time.monotonic() - began) / 60:.1f} min.')


if __name__ == '__main__':
    main()
