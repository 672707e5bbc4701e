"""Train a small RetinaNet by back-propagation and by local learning with MAN, and compare them: `make demo`.

Draws a data set, measures memory and time of a training step of both, trains both by tools/train.py, and ends with a
table and two pictures below work_dirs/demo. Nothing is downloaded or stored beforehand.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import demo_pictures as pictures
import mmengine
import torch
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import find_latest_checkpoint
from rich.console import Console
from rich.table import Table

from man_mm.analysis.scalars import read_scalars
from man_mm.analysis.step import TrainStep, first_batch, step_peak_bytes, step_seconds

ROOT = Path(__file__).resolve().parent.parent
OUT = Path('work_dirs/demo')
CONFIGS = {
    'BP': 'configs/demo/retinanet_r50_bp_shapes.py',
    'MAN': 'configs/demo/retinanet_r50_man_k4_shapes.py',
}
NUM_TRAIN, NUM_VAL = 600, 50
TIMED_ROUNDS = 9
NUM_PICTURES, MIN_OBJECTS, SCORE_THRESHOLD = 4, 4, 0.4
METRICS = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
STEP_LINE = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?\bloss: ([\d.]+|nan|inf)')
LOCAL_LOSS = re.compile(r'local_\d+/total: ([\d.]+|nan|inf)')
AP_LINE = re.compile(r'Epoch\(val\)\s+\[(\d+)\]\[.*?bbox_mAP: (-?[\d.]+)')

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


class Phases:
    """Announces phases, and knows how long the rest of the demo takes.

    Args:
        seconds: Every phase with a first guess of its seconds, on two cores; measurements replace them.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.current = ''
        self.started = 0.0

    def start(self, phase: str) -> None:
        """Begin a phase; the one before is over."""
        self.current, self.started = phase, time.monotonic()
        number = 1 + list(self.seconds).index(phase)
        console.print(f'\n[bold][{number}/{len(self.seconds)}] {phase}[/bold] ... {self.left()}', markup=True)

    def left(self, share_done: float = 0.0) -> str:
        """What is left of the demo when `share_done` (0..1) of the current phase is done, in words."""
        order = list(self.seconds)
        rest = sum(self.seconds[phase] for phase in order[order.index(self.current) + 1 :])
        own = self.seconds[self.current]
        if share_done > 0:
            own = (time.monotonic() - self.started) / share_done
            if share_done < 0.2:  # start-up weighs too much yet
                own = (own + self.seconds[self.current]) / 2
        seconds = max(0.0, own * (1 - share_done) + rest)
        return f'about {seconds / 60:.1f} min left' if seconds >= 60 else f'about {seconds:.0f} s left'


def run(command: list[str], log: Path, on_line) -> None:
    """Run a Python program, write its output to `log`, and hand every line to `on_line`.

    Raises:
        RuntimeError: If it fails; with the end of its output.
    """
    lines: list[str] = []
    with log.open('w', encoding='utf-8') as file:
        with subprocess.Popen(
            [sys.executable, '-u', *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                file.write(line)
                lines.append(line)
                on_line(line)
    if process.returncode != 0:
        raise RuntimeError(
            f'{" ".join(command)} ended with exit status {process.returncode}. The end of {log}:\n{"".join(lines[-15:])}'
        )


def measure(configs: dict[str, Config], device: str) -> dict[str, dict[str, float]]:
    """Peak bytes and median seconds of a training step of every config, all on the same batch."""
    MMLogger.get_instance('demo', logger_name='demo', log_level='ERROR')  # else every initialised weight is a line
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        batch = first_batch(next(iter(configs.values())))
        peaks = {name: step_peak_bytes(TrainStep(cfg, device), batch) for name, cfg in configs.items()}
        seconds = step_seconds([TrainStep(cfg, device) for cfg in configs.values()], batch, TIMED_ROUNDS)
    return {name: dict(peak_bytes=peaks[name], step_seconds=s) for name, s in zip(configs, seconds, strict=True)}


def train(name: str, config: str, max_epochs: int, phases: Phases) -> None:
    """Train one config as a user would, showing its progress."""

    def show(line: str) -> None:
        step, validated = STEP_LINE.search(line), AP_LINE.search(line)
        if step:
            epoch, done, of, loss = int(step[1]), int(step[2]), int(step[3]), step[4]
            local = LOCAL_LOSS.findall(line)
            losses = f'loss {float(loss):.3f}' + (
                f', local {" ".join(f"{float(x):.3f}" for x in local)}' if local else ''
            )
            left = phases.left((epoch - 1 + done / of) / max_epochs)
            console.print(f'  {name:3}  epoch {epoch}/{max_epochs}  step {done:2}/{of}  {losses}  ({left})')
        elif validated:
            console.print(
                f'  {name:3}  epoch {validated[1]}/{max_epochs}  validation AP {100 * float(validated[2]):.1f}'
            )

    work_dir = OUT / name.lower()
    shutil.rmtree(work_dir, ignore_errors=True)
    run(['tools/train.py', config, '--work-dir', str(work_dir)], OUT / f'{name.lower()}.log', show)


def detect(cfg: Config, work_dir: Path, files: list[str], device: str) -> list:
    """What the trained model finds on `files` above the score threshold: (boxes xywh, labels, scores) per image."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = init_detector(cfg, find_latest_checkpoint(str(work_dir)), device=device)
        results = [result.pred_instances.cpu().numpy() for result in inference_detector(model, files)]
    found = []
    for result in results:
        sure = result[result.scores >= SCORE_THRESHOLD]
        found.append((pictures.as_xywh(sure.bboxes), sure.labels.tolist(), sure.scores.tolist()))
    return found


def draw(configs: dict[str, Config], runs: dict, device: str) -> None:
    """Write detections.png and curves.png."""
    data = configs['BP'].val_dataloader.dataset
    root = Path(data.data_root)
    images = pictures.pick_images(root / data.ann_file, NUM_PICTURES, MIN_OBJECTS)
    files = [str(root / data.data_prefix.img / image['file_name']) for image in images]
    found = {
        f'{name} (score > {SCORE_THRESHOLD})': detect(cfg, OUT / name.lower(), files, device)
        for name, cfg in configs.items()
    }
    classes = {
        name: tuple(channel / 255 for channel in colour)
        for name, colour in zip(data.metainfo.classes, data.metainfo.palette, strict=True)
    }
    pictures.draw_detections(OUT / 'detections.png', root / data.data_prefix.img, images, found, classes)
    pictures.draw_curves(OUT / 'curves.png', runs)


def report(measured: dict, runs: dict, setting: dict) -> None:
    """Write table.json and print the table."""
    rows = {
        name: {**{key: 100 * runs[name][1][-1][source] for key, source in METRICS.items()}, **measured[name]}
        for name in runs
    }
    (OUT / 'table.json').write_text(json.dumps(dict(setting, rows=rows), indent=2), encoding='utf-8')
    table = Table(title=f'RetinaNet on {NUM_VAL} validation images, trained from scratch on {NUM_TRAIN}')
    table.add_column('')
    for heading in (*METRICS, 'peak memory (MiB)', 'seconds per step'):
        table.add_column(heading, justify='right')
    for name, row in rows.items():
        scores = (f'{row[key]:.1f}' for key in METRICS)
        table.add_row(name, *scores, f'{row["peak_bytes"] / 2**20:.1f}', f'{row["step_seconds"]:.3f}')
    bp, man = rows['BP'], rows['MAN']
    changes = (f'{man[key] - bp[key]:+.1f}' for key in METRICS)
    memory = f'{100 * (man["peak_bytes"] / bp["peak_bytes"] - 1):+.0f} %'
    table.add_section()
    table.add_row('MAN against BP', *changes, memory, f'x {man["step_seconds"] / bp["step_seconds"]:.2f}')
    console.print()
    console.print(table)
    console.print(
        f'MAN: {setting["num_modules"]} gradient-isolated modules. Batch {setting["batch_size"]}, '
        f'{setting["device"]}, {setting["threads"]} threads, torch {setting["torch"]}.\n'
        'AP by pycocotools, at the last epoch. Memory: live tensors of one training step (weights, optimizer state, '
        'gradients, activations).'
    )


def main_phases(phases: Phases) -> None:
    """Run all phases; the keys of `phases.seconds` name them."""
    draw_data, measuring, *training, finish = phases.seconds
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    configs = {name: Config.fromfile(path) for name, path in CONFIGS.items()}
    max_epochs, batch_size = configs['BP'].train_cfg.max_epochs, configs['BP'].train_dataloader.batch_size

    phases.start(draw_data)
    numbers = ['--num-train', str(NUM_TRAIN), '--num-val', str(NUM_VAL)]
    out = configs['BP'].data_root.rstrip('/')
    make = ['tools/dataset_tools/make_shapes.py', '--out', out, '--seed', '0', *numbers]
    run(make, OUT / 'data.log', lambda line: console.print(f'  {line.rstrip()}'))

    phases.start(measuring)
    measured = measure(configs, device)
    for phase, name in zip(training, CONFIGS, strict=True):
        steps = max_epochs * -(-NUM_TRAIN // batch_size)
        phases.seconds[phase] = 20 + 1.15 * steps * measured[name]['step_seconds']
        peak, seconds = measured[name]['peak_bytes'] / 2**20, measured[name]['step_seconds']
        console.print(f'  {name:3}  {peak:.1f} MiB at most, {seconds:.3f} s a step, {steps} steps to come')

    for phase, (name, path) in zip(training, CONFIGS.items(), strict=True):
        phases.start(phase)
        train(name, path, max_epochs, phases)

    phases.start(finish)
    runs = {name: read_scalars(OUT / name.lower()) for name in CONFIGS}
    draw(configs, runs, device)
    setting = dict(torch=torch.__version__, mmengine=mmengine.__version__, device=device)
    setting.update(threads=torch.get_num_threads(), batch_size=batch_size, max_epochs=max_epochs)
    report(measured, runs, dict(setting, num_modules=configs['MAN'].model.backbone.num_modules))


def main() -> None:
    os.chdir(ROOT)  # the configs name the data from here
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    phases = Phases(
        {
            'drawing the data set': 15,
            'measuring a training step of both': 30,
            'training by BP': 140,
            'training by MAN': 260,
            'drawing the pictures': 15,
        }
    )
    try:
        main_phases(phases)
    except Exception:
        traceback.print_exc()
        sys.exit(f'The demo stopped while {phases.current}; its logs are in {OUT}.')
    for name in ('table.json', 'detections.png', 'curves.png'):
        console.print(f'  {OUT / name}')
    console.print(f'Done in {(time.monotonic() - began) / 60:.1f} min.')


if __name__ == '__main__':
    main()
