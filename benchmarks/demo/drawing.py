"""The pictures of the demo."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

matplotlib.use('Agg')  # no display needed

Box = tuple[float, float, float, float]
COLOURS = {'BP': '#444444', 'BP, recomputed': '#868e96', 'lean': '#1971c2', 'MAN': '#d9480f'}
"""By method."""


def pick_images(ann_file: Path, num_images: int, min_objects: int) -> list[dict[str, Any]]:
    """The first `num_images` images with at least `min_objects` objects: `file_name`, `boxes` (xywh, px), `labels`."""
    content = json.loads(ann_file.read_text(encoding='utf-8'))
    picked = []
    for image in content['images']:
        own = [annotation for annotation in content['annotations'] if annotation['image_id'] == image['id']]
        if len(own) >= min_objects:
            boxes, labels = [a['bbox'] for a in own], [a['category_id'] - 1 for a in own]
            picked.append(dict(file_name=image['file_name'], boxes=boxes, labels=labels))
    return picked[:num_images]


def count_images(ann_file: Path) -> int:
    """Number of images in an annotation file."""
    return len(json.loads(ann_file.read_text(encoding='utf-8'))['images'])


def draw_boxes(
    axes: Axes, boxes: Sequence[Box], labels: Sequence[int], colours: Sequence[Any], scores: Sequence[float] = ()
) -> None:
    """Draw boxes (x, y, width, height in px) in the colours of their classes, with scores if there are any."""
    for i, ((x, y, width, height), label) in enumerate(zip(boxes, labels, strict=True)):
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor='white', linewidth=3.2))
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colours[label], linewidth=1.8))
        if scores:
            place = dict(va='bottom') if y > 14 else dict(va='top')
            axes.text(
                x,
                y if y > 14 else y + height,
                f'{scores[i]:.2f}',
                color='white',
                fontsize=7.5,
                bbox=dict(facecolor=colours[label], edgecolor='none', pad=1.0),
                **place,
            )


def draw_detections(
    path: Path, image_dir: Path, images: Sequence[dict[str, Any]], found: Mapping[str, list], classes: Mapping[str, Any]
) -> None:
    """A row per image: ground truth, then what each method found.

    Args:
        path: PNG to write.
        image_dir: Folder of the images.
        images: As `pick_images` returns them.
        found: From a column's title to (boxes xywh, labels, scores) per image.
        classes: From a class's name to its colour, in the order of the labels.
    """
    colours = list(classes.values())
    columns = 1 + len(found)
    figure = Figure(figsize=(3.1 * columns, 3.1 * len(images) + 0.9), dpi=110, layout='constrained')
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(grid, images, strict=True):
        picture = cv2.imread(str(image_dir / image['file_name']))[..., ::-1]
        for axes in row:
            axes.imshow(picture, interpolation='nearest')
            axes.set_axis_off()
        draw_boxes(row[0], image['boxes'], image['labels'], colours)
    for column, results in enumerate(found.values(), start=1):
        for axes, result in zip(grid[:, column], results, strict=True):
            draw_boxes(axes, result[0], result[1], colours, result[2])
    for axes, title in zip(grid[0], ('ground truth', *found), strict=True):
        axes.set_title(title, fontsize=13)
    handles = [Patch(color=colour, label=name) for name, colour in classes.items()]
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=12)
    figure.savefig(path)


def draw_curves(path: Path, runs: Mapping[str, tuple[list[dict], list[dict]]]) -> None:
    """Left: validation AP over epochs. Right: main losses, and the local ones of runs that have any.

    Args:
        path: PNG to write.
        runs: From a method's name to its rows of training and validation, see `man_mm.analysis.scalars`.
    """
    figure = Figure(figsize=(11, 4.2), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2)
    for name, (train, val) in runs.items():
        aps = [100 * row['coco/bbox_mAP'] for row in val]
        left.plot(
            [row['step'] for row in val], aps, 'o-', color=COLOURS[name], label=f'{name}, at the end {aps[-1]:.1f}'
        )
        steps = [row['step'] for row in train]
        right.plot(steps, [row['loss'] for row in train], color=COLOURS[name], linewidth=2, label=f'{name}: main loss')
        local = sorted(key for key in train[-1] if key.startswith('local_') and key.endswith('/total'))
        for i, key in enumerate(local):
            style = dict(color=COLOURS[name], linestyle=('--', '-.', ':')[i % 3])
            label = f'{name}: local loss of module {i}'
            right.plot(steps, [row[key] for row in train], linewidth=1.1, label=label, **style)
    left.set(xlabel='epoch', ylabel='COCO AP on the validation images', ylim=(0, None))
    right.set(xlabel='step', ylabel='training loss')
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        _plain(axes)
    left.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path)


def draw_frontier(path: Path, panels: Mapping[str, tuple[str, Mapping[str, tuple[float, float]]]]) -> None:
    """A panel a network: peak memory of a step against its time, both as ratios to back-propagation.

    Args:
        path: PNG to write.
        panels: From a title to what the time is measured in, and (time, memory) by method.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.2), dpi=120, layout='constrained')
    for axes, (title, (unit, points)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, (time, memory) in points.items():
            axes.plot(time, memory, 'o', color=COLOURS[name], markersize=9)
            below = -14 if name == 'lean' else 5  # it comes near what is recomputed
            axes.annotate(name, (time, memory), xytext=(7, below), textcoords='offset points', color=COLOURS[name])
        axes.set(title=title, xlabel=f'{unit} of a step (BP = 1)', ylabel='peak memory of a step (BP = 1)')
        axes.margins(x=0.25, y=0.1)
        axes.set_ylim(0, None)
        _plain(axes)
    figure.savefig(path)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)


def as_xywh(boxes: np.ndarray) -> list[Box]:
    """Boxes (N, 4) from corners x1, y1, x2, y2 to x, y, width, height."""
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
