"""Train a small RetinaNet by back-propagation and by local learning, and compare them: `make demo`.

Draws a data set, measures memory and time of a training step of each method, estimates both for a RetinaNet of full
size, trains with tools/train.py, and ends with a table and three pictures below work_dirs/demo. Nothing is downloaded
or stored beforehand.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from drawing import as_xywh, count_images, draw_curves, draw_detections, draw_frontier, pick_images
from methods import BIG, METHODS, estimate, measure
from mmdet.apis import inference_detector, init_detector
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from programs import run_python, stop_programs
from rich.console import Console
from rich.table import Table

from man_mm.analysis.scalars import read_scalars
from man_mm.versions import add_note

ROOT = Path(__file__).resolve().parents[2]
OUT = Path('work_dirs/demo')
PHASES = (
    'drawing the data set',
    'measuring a training step of each method',
    f'estimating a step of each for {BIG}',
    'training',
    'drawing the pictures',
)
TRAINED = [name for name, method in METHODS.items() if method.trained]
NUM_PICTURES, MIN_OBJECTS, SCORE_THRESHOLD = 4, 4, 0.4
METRICS = {'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'}
STEP_LINE = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?\bloss: ([\d.]+|nan|inf)')
LOCAL_LOSSES = re.compile(r'  local: (\S+(?: \S+)*)')
AP_LINE = re.compile(r'Epoch\(val\)\s+\[(\d+)\]\[.*?bbox_mAP: (-?[\d.]+)')

console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Announce a phase, and say in which one an error came."""
    console.print(f'\n[{1 + PHASES.index(name)}/{len(PHASES)}] {name} ...', markup=False, style='bold')
    try:
        yield
    except Exception as error:
        add_note(error, f'The demo failed while {name}. Logs: {OUT}')
        raise


class Training:
    """All runs, side by side where there are two cores, and the time that is left to them.

    Args:
        num_epochs: Of each run.
        num_steps: Of each run, in all.
        step_seconds: By method, what a step takes as measured; in these shares the runs count.
    """

    def __init__(self, num_epochs: int, num_steps: int, step_seconds: dict[str, float]) -> None:
        self.num_epochs, self.num_steps = num_epochs, num_steps
        self.work = {name: num_steps * step_seconds[name] for name in TRAINED}
        self.done = dict.fromkeys(TRAINED, 0.0)
        self.began = time.monotonic()

    def run(self) -> None:
        """Train by every method, as a user would; the longest run begins first."""
        cores = len(os.sched_getaffinity(0))
        workers = min(2, cores)
        with ThreadPoolExecutor(workers) as pool:
            order = sorted(TRAINED, key=lambda name: -self.work[name])
            runs = [pool.submit(self._train, name, max(1, cores // workers)) for name in order]
            try:
                for done in as_completed(runs):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_programs()
                raise

    def _train(self, name: str, threads: int) -> None:
        def show(line: str) -> None:
            step, validated = STEP_LINE.search(line), AP_LINE.search(line)
            if step:
                epoch, at, of, loss = int(step[1]), int(step[2]), int(step[3]), float(step[4])
                local = LOCAL_LOSSES.search(line)
                losses = f'loss {loss:.2f}' + (f', local {local[1]}' if local else '')
                self.done[name] = self.work[name] * ((epoch - 1) * of + at) / self.num_steps
                console.print(
                    f'  {name:4}  epoch {epoch}/{self.num_epochs}  step {at:2}/{of}  {losses}  {self._left()}'
                )
            elif validated:
                console.print(
                    f'  {name:4}  epoch {validated[1]}/{self.num_epochs}  validation AP {100 * float(validated[2]):.1f}'
                )

        folder = work_dir(name)
        shutil.rmtree(folder, ignore_errors=True)
        command = ['tools/train.py', f'configs/demo/{METHODS[name].config}', '--work-dir', str(folder)]
        run_python(command, folder.with_suffix('.log'), show, threads)

    def _left(self) -> str:
        """By how fast all went so far, so that it holds on a machine that does other things too."""
        done, work = sum(self.done.values()), sum(self.work.values())
        return f'(about {(time.monotonic() - self.began) * (work - done) / done / 60:.1f} min left)'


def work_dir(name: str) -> Path:
    return OUT / name.lower()


def detect(name: str, files: list[str], device: str) -> list:
    """What the trained model finds on `files` above the score threshold: (boxes xywh, labels, scores) per image."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = init_detector(METHODS[name].read(), find_latest_checkpoint(str(work_dir(name))), device=device)
        results = [result.pred_instances.cpu().numpy() for result in inference_detector(model, files)]
    sure = [result[result.scores >= SCORE_THRESHOLD] for result in results]
    return [(as_xywh(found.bboxes), found.labels.tolist(), found.scores.tolist()) for found in sure]


def draw(bp: Config, runs: dict, rows: dict[str, dict[str, float]], device: str) -> None:
    """Write detections.png, curves.png and frontier.png."""
    data = bp.val_dataloader.dataset
    root = Path(data.data_root)
    images = pick_images(root / data.ann_file, NUM_PICTURES, MIN_OBJECTS)
    files = [str(root / data.data_prefix.img / image['file_name']) for image in images]
    found = {f'{name} (score > {SCORE_THRESHOLD})': detect(name, files, device) for name in TRAINED}
    classes = {
        name: tuple(channel / 255 for channel in colour)
        for name, colour in zip(data.metainfo.classes, data.metainfo.palette, strict=True)
    }
    draw_detections(OUT / 'detections.png', root / data.data_prefix.img, images, found, classes)
    draw_curves(OUT / 'curves.png', runs)
    here = {name: (row['step_ratio'], row['peak_mib'] / rows['BP']['peak_mib']) for name, row in rows.items()}
    big = {
        name: (row['big_gflops'] / rows['BP']['big_gflops'], row['big_peak_mib'] / rows['BP']['big_peak_mib'])
        for name, row in rows.items()
    }
    panels = {'the network of the demo, measured': ('time', here), f'{BIG}, estimated': ('operations', big)}
    draw_frontier(OUT / 'frontier.png', panels)


def as_table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """A line per method; memory and time with their ratios to back-propagation."""
    table = Table(title=title, caption=f'* estimate for {BIG}, on CUDA')
    table.add_column('')
    for heading in (*METRICS, 'peak MiB', 's per step', 'peak GiB *', 'TFLOP per step *'):
        table.add_column(heading, justify='right')
    bp = rows['BP']
    for name, row in rows.items():
        scores = (f'{row[key]:.1f}' if key in row else '-' for key in METRICS)
        table.add_row(
            name,
            *scores,
            f'{row["peak_mib"]:.0f} (x {row["peak_mib"] / bp["peak_mib"]:.2f})',
            f'{row["step_s"]:.3f} (x {row["step_ratio"]:.2f})',
            f'{row["big_peak_mib"] / 1024:.2f} (x {row["big_peak_mib"] / bp["big_peak_mib"]:.2f})',
            f'{row["big_gflops"] / 1000:.2f} (x {row["big_gflops"] / bp["big_gflops"]:.2f})',
        )
    return table


def report(rows: dict[str, dict[str, float]], setting: dict[str, Any]) -> None:
    """Write table.json and print the table."""
    (OUT / 'table.json').write_text(json.dumps(dict(setting, rows=rows), indent=2), encoding='utf-8')
    num_train, num_val = setting['num_images']
    console.print()
    console.print(as_table(rows, f'RetinaNet from scratch: {num_train} training and {num_val} validation images'))
    console.print(
        'BP, recomputed: blocks, neck and head; BP up to rounding, so it is not trained again. lean: slim '
        'auxiliaries;\nMAN: as in the paper. Both cut the backbone into gradient-isolated modules.\n'
        f'Batch {setting["batch_size"]}, {setting["device"]}, {setting["threads"]} threads, torch {setting["torch"]}. '
        'AP: pycocotools, after the last epoch.\nMemory: live tensors of one training step, i.e. weights, optimizer '
        'state, gradients and activations.'
    )


def run_phases() -> None:
    """Run all phases."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    bp = METHODS['BP'].read()
    batch_size = bp.train_dataloader.batch_size

    with phase(PHASES[0]):
        make = ['tools/dataset_tools/make_shapes.py', '--out', bp.data_root]
        run_python(make, OUT / 'data.log', lambda line: console.print(f'  {line.rstrip()}', markup=False), threads=1)
    datasets = [loader.dataset for loader in (bp.train_dataloader, bp.val_dataloader)]
    num_images = [count_images(Path(data.data_root) / data.ann_file) for data in datasets]

    with phase(PHASES[1]):
        measured = measure(device)
    for name, row in measured.items():
        console.print(f'  {name:15} {row["peak_mib"]:6.1f} MiB at most, {row["step_s"]:.3f} s a step')

    with phase(PHASES[2]):
        estimated = estimate()
    for name, row in estimated.items():
        console.print(f'  {name:15} {row["peak_mib"] / 1024:6.2f} GiB at most, {row["gflops"] / 1000:.2f} TFLOP a step')

    with phase(PHASES[3]):
        num_epochs = bp.train_cfg.max_epochs
        num_steps = num_epochs * -(-num_images[0] // batch_size)
        Training(num_epochs, num_steps, {name: row['step_s'] for name, row in measured.items()}).run()

    with phase(PHASES[4]):
        runs = {name: read_scalars(work_dir(name)) for name in TRAINED}
        rows = {
            name: dict(
                {key: 100 * runs[name][1][-1][source] for key, source in METRICS.items() if name in runs},
                **{key: measured[name][key] for key in ('peak_mib', 'step_s', 'step_ratio')},
                **{f'big_{key}': estimated[name][key] for key in ('peak_mib', 'gflops')},
            )
            for name, method in METHODS.items()
        }
        draw(bp, runs, rows, device)
    configs = {name: method.config for name, method in METHODS.items()}
    setting = dict(torch=torch.__version__, device=device, threads=torch.get_num_threads(), num_images=num_images)
    report(rows, dict(setting, configs=configs, batch_size=batch_size))


def main() -> None:
    os.chdir(ROOT)  # the configs name the data from here
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    run_phases()
    for name in ('table.json', 'detections.png', 'curves.png', 'frontier.png'):
        console.print(f'  {OUT / name}')
    console.print(f'Done in {(time.monotonic() - began) / 60:.1f} min.')


if __name__ == '__main__':
    main()
