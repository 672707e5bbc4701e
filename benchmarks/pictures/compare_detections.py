"""Draw what detectors find beside each other: the truth, then each of them, a row per image.

The boxes are drawn by MMDetection's visualizer, in colours that the colour-blind tell apart.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from _common_arguments import add_models, load_models
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from style import PALETTE, save

from man_mm.analysis.trained import evaluation_batches
from man_mm.local import evaluating

TRUTH = 'truth'
SIDE = 640
"""Longer side in px to which images are brought before boxes are drawn."""
COLOURS = ('red', 'blue', 'green', 'purple', 'orange', 'sky')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_models(parser, fewest=1)
    parser.add_argument('--out', type=Path, required=True, help='picture to draw')
    parser.add_argument('--images', type=int, nargs='+', default=[0, 1, 2], help='indices into the test set')
    parser.add_argument('--score', type=float, default=0.4, help='boxes of lower scores are left out')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names, configs, models = load_models(args)
    try:
        batches = list(evaluation_batches(configs[0], max(args.images) + 1, 1))
        chosen = [batches[index] for index in args.images]
    except (ValueError, IndexError) as error:
        sys.exit(f'--images {args.images}: {error}')
    classes = configs[0].test_dataloader.dataset.metainfo.classes
    visualizer = DetLocalVisualizer(line_width=3, alpha=0.9)
    visualizer.dataset_meta = dict(classes=classes, palette=palette(len(classes)))
    rows = []
    for batch in chosen:
        sample = batch['data_samples'][0]
        row = {TRUTH: paint(visualizer, sample, sample.gt_instances)}
        for name, model in zip(names, models, strict=True):
            with evaluating(model):
                found = model.test_step(batch)[0].pred_instances
            row[name] = paint(visualizer, sample, found[found.scores >= args.score])
        rows.append(row)
    draw(rows, visualizer.dataset_meta, args.out)


def paint(visualizer: DetLocalVisualizer, sample: DetDataSample, instances: Any) -> np.ndarray:
    """The image of a sample with boxes on it, RGB, enlarged to `SIDE` px."""
    image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
    factor = SIDE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    boxes = get_box_tensor(instances.bboxes) * factor
    # without class names and scores, which would hide small objects; the legend tells the classes
    drawn = InstanceData(bboxes=boxes, labels=instances.labels, label_names=[''] * len(instances))
    visualizer.add_datasample('', image, DetDataSample(gt_instances=drawn), draw_pred=False)
    return visualizer.get_image()


def palette(num: int) -> list[tuple[int, ...]]:
    """RGB of 0 to 255 for `num` classes."""
    names = (COLOURS[i % len(COLOURS)] for i in range(num))
    return [tuple(round(255 * channel) for channel in to_rgb(PALETTE[name])) for name in names]


def draw(rows: list[dict[str, np.ndarray]], meta: Any, picture: Path) -> None:
    height, width = next(iter(rows[0].values())).shape[:2]
    columns = len(rows[0])
    size = (3.0 * columns, 3.0 * height / width * len(rows) + 0.7)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout='constrained')
    for line, row in zip(axes, rows, strict=True):
        for axis, image in zip(line, row.values(), strict=True):
            axis.imshow(image)
            axis.axis('off')
    for axis, name in zip(axes[0], rows[0], strict=True):
        axis.set_title(name)
    colours = [tuple(channel / 255 for channel in colour) for colour in meta['palette']]
    handles = [Patch(color=colour, label=name) for name, colour in zip(meta['classes'], colours, strict=True)]
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles))
    save(figure, picture)


if __name__ == '__main__':
    main()
