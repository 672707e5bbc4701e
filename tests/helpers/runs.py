"""Whole runs: a COCO-format data set of a few tiny images, and a Runner's config that trains on it."""

import json

import numpy as np
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.runner import Runner
from PIL import Image

from .detection import BOXES, CLASSES, retinanet

NAMES = tuple(f'class_{i}' for i in range(CLASSES))


def make_coco(folder, num_images=6, size=64, boxes=BOXES):
    """Write `images/*.png` and `train.json`; returns the data root as configs want it."""
    (folder / 'images').mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(num_images):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f'images/{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', height=size, width=size))
        for j, (x1, y1, x2, y2) in enumerate(boxes):
            box = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1), iscrowd=0)
            annotations.append(dict(id=len(annotations), image_id=i, category_id=j % CLASSES, **box))
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES)]
    (folder / 'train.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return str(folder) + '/'


def run_config(data_root, work_dir, model=None, epochs=2, hooks=(), wrapper=None, **options):
    """A run of the tiny RetinaNet, K = 4, as a config file would describe it."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    dataset = dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=NAMES),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=pipeline,
    )
    return dict(
        default_scope='mmdet',
        model=model or retinanet(4),
        train_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset
        ),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs),
        optim_wrapper=dict(
            type='man_mm.LocalOptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9), **(wrapper or {})
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5),
        ],
        custom_hooks=[dict(type='man_mm.FeatureBankHook'), dict(type='man_mm.EpochSeedHook'), *hooks],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1)
        ),
        randomness=dict(seed=0),
        work_dir=str(work_dir),
        log_level='ERROR',
        **options,
    )


def write_config(cfg, path):
    """Write a config file."""
    dump(cfg, path) if path.suffix == '.json' else Config(cfg).dump(path)
    return path


def runner(cfg):
    """A Runner with a name of its own."""
    return Runner.from_cfg(Config(dict(cfg, experiment_name=f'run-{id(cfg)}')))
