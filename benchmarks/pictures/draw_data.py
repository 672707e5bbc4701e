"""Draw images of a config's training set as the model gets them, with the boxes and the masks that it is to find.

What a wrong path of images, a wrong list of classes or a wrong order of coordinates does is seen here first.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from compare_detections import palette
from matplotlib.patches import Patch
from mmdet.structures.bbox import get_box_tensor
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import DictAction
from mmengine.registry import DATASETS, init_default_scope
from style import save

from man_mm.runs.compat import read_config
from man_mm.runs.missing_data import missing_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a detector')
    parser.add_argument('out', type=Path, help='picture to draw')
    parser.add_argument('--images', type=int, nargs='+', default=[0, 1, 2, 3], help='indices into the training set')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config settings: key=value')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    missing = missing_data(cfg, ('train_dataloader',))
    if missing:
        sys.exit(missing)
    init_default_scope(cfg.default_scope)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    if max(args.images) >= len(data):
        sys.exit(f'--images {max(args.images)}: the training set has {len(data)} images that have objects.')
    classes = data.metainfo['classes']
    visualizer = DetLocalVisualizer(line_width=2, alpha=0.6)
    visualizer.dataset_meta = dict(classes=classes, palette=palette(len(classes)))
    pictures = [paint(visualizer, data[index]) for index in args.images]
    draw(pictures, visualizer.dataset_meta, args.out)
    print(f'{args.out}: {len(pictures)} of {len(data)} training images; classes: {", ".join(classes)}')


def paint(visualizer: DetLocalVisualizer, sample: dict[str, Any]) -> np.ndarray:
    """The image (H, W, 3) of a sample, RGB, with its objects on it."""
    image = np.ascontiguousarray(sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1])
    truth = sample['data_samples']
    truth.gt_instances.bboxes = get_box_tensor(truth.gt_instances.bboxes)
    truth.gt_instances.label_names = [''] * len(truth.gt_instances)  # the legend tells the classes
    visualizer.add_datasample('', image, truth, draw_pred=False)
    return visualizer.get_image()


def draw(pictures: list[np.ndarray], meta: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(1, len(pictures), figsize=(2.6 * len(pictures), 3.0), squeeze=False)
    for axis, picture in zip(axes[0], pictures, strict=True):
        axis.imshow(picture)
        axis.set_title(f'{picture.shape[1]} x {picture.shape[0]} px', fontsize=9)
        axis.axis('off')
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.14, wspace=0.04)
    colours = [tuple(channel / 255 for channel in colour) for colour in meta['palette']]
    handles = [Patch(color=colour, label=name) for name, colour in zip(meta['classes'], colours, strict=True)]
    figure.legend(handles=handles, loc='lower center', ncols=min(len(handles), 8))
    save(figure, out)


if __name__ == '__main__':
    main()
