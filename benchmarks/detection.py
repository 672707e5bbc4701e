"""Detectors on ResNet-50, by back-propagation and locally, on BCCD or cutpaste, by a short protocol; see protocol.py.

RetinaNet is slim: images of 160 x 120 px, a neck and heads of half the width with two convolutions a branch instead of
four, so that a CPU trains every method, the costly ones too. YOLOv1 is that of its configs. On BCCD settings are
chosen on its `val` split and `test` means its `test` split; on cutpaste, which has no third split, they are chosen on
the last 100 training images, on which no run trains, and `test` means its `val` split.

`--model retinanet_r50_whole` is the RetinaNet of the configs, on images of 320 x 240 px and for 16 epochs. It is meant
to reach the level that is known of BCCD (AP50 about 90), takes hours on a CPU, and has not been run to its end.
"""

import argparse
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from protocol import ROOT, Benchmark, Protocol, Run

METHODS = {'bp': 'bp/{}_bp', 'man-k4': 'man/{}_man_k4', 'man-k17': 'man/{}_man_k17'}
METHODS |= {'manlean-k17': 'man/{}_manlean_k17', 'manlean-copy-k17': 'man/{}_manlean-copy_k17'}
METHODS |= {'dgl-k4': 'dgl/{}_dgl_k4', 'dgl-k17': 'dgl/{}_dgl_k17'}
WHOLE = {'manlean-k4': 'man/{}_manlean_k4', 'manlean-copy-k4': 'man/{}_manlean-copy_k4'}
WHOLE |= {'manlean-follow-k4': 'man/{}_manlean-follow_k4'}
SLIM, NOT_SLIM = 'retinanet_r50', 'retinanet_r50_whole'
MODELS = {SLIM: METHODS, NOT_SLIM: METHODS | WHOLE, 'yolov1_r50': {m: METHODS[m] for m in ('bp', 'man-k4')}}
LEAN = 'man/retinanet_r50_manlean_k4_bccd.py'
HEAD = 'auxiliary.head.bbox_head'
WIDE_HEAD = {f'{HEAD}.in_channels': 256, f'{HEAD}.feat_channels': 256, f'{HEAD}.stacked_convs': 4}
MIDDLE_HEAD = {f'{HEAD}.in_channels': 128, f'{HEAD}.feat_channels': 128, f'{HEAD}.stacked_convs': 2}
NARROW_HEAD = {f'{HEAD}.in_channels': 64}
LEAN_COPY = 'man/retinanet_r50_manlean-copy_k4_bccd.py'
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    'slm-bank': ('man-k4', {}),
    'slm': ('man-k4', {'bank': False}),
    'bank': ('man/retinanet_r50_man-noslm_k4_bccd.py', {}),
    'neither': ('man/retinanet_r50_man-noslm_k4_bccd.py', {'auxiliary.banked_levels': False}),
    'head-grad-mean': ('man-k4', {'auxiliary.shared_head_grad': 'mean'}),
    'head-grad-last': ('man-k4', {'auxiliary.shared_head_grad': 'last'}),
    'private-head': ('man-k4', {'auxiliary.head': 'private'}),
    'light-head': ('man/retinanet_r50_man-lighthead_k4_bccd.py', {}),
    'shared-neck': ('man-k4', {'auxiliary.neck': 'shared'}),
    'random-init': ('man-k4', {'auxiliary.init': 'random'}),
    'k2': ('man-k4', {'num_modules': 2}),
    'k8': ('man-k4', {'num_modules': 8}),
    'lean': (LEAN, {}),
    'lean-wide': (LEAN, {'auxiliary.channels': 256, 'auxiliary.neck.out_channels': 256} | WIDE_HEAD),
    'lean-slm': ('man/retinanet_r50_man-lighthead_k4_bccd.py', {'auxiliary.neck.out_channels': 64} | NARROW_HEAD),
    'lean-c128': (LEAN, {'auxiliary.channels': 128}),
    'lean-c256': (LEAN, {'auxiliary.channels': 256}),
    'lean-a3': (LEAN, {f'{HEAD}.anchor_generator.scales_per_octave': 1}),
    'lean-copy': (LEAN_COPY, {}),
    'lean-follow': ('man/retinanet_r50_manlean-follow_k4_bccd.py', {}),
    'lean-copy-later': (LEAN_COPY, {'auxiliary.cut_stage': False}),
    'lean-c128-h128': (LEAN, {'auxiliary.channels': 128, 'auxiliary.neck.out_channels': 128} | MIDDLE_HEAD),
    'lean-share': (LEAN, {'share': 'stage', 'num_modules': 8}),
    'lean-nobank': (LEAN, {'bank': False}),
    'lean-k8': (LEAN, {'num_modules': 8}),
}
"""The SLM and the bank apart, heads, neck, start, number of modules; what lean training costs in accuracy."""

SCALE = (160, 120)
HALF = {256: 128, 128: 64, 64: 32, 4: 2}
"""Of the widths and depths of necks and heads."""
PYRAMIDS = {'man_mm.DGLPyramid': 256, 'man_mm.SlimSLM': 64}
"""Auxiliaries that have a width of their own, and its default."""
PRETRAINED = {'backbone': dict(lr_mult=0.1), 'backbone.auxiliaries': dict(lr_mult=1.0)}
PRETRAINED |= {f'backbone.auxiliaries.{i}.layers': dict(lr_mult=0.1) for i in range(16)}
"""Pretrained weights, also those that an SLM starts from, learn at a tenth of the rate; the longest key holds."""
HELD_OUT = 100
"""Training images of cutpaste, the last ones, that are left out of training."""
SETTINGS = {
    'bccd': dict(lrs=(3e-4, 1e-3, 3e-3), grid_length=2, length=4),
    'cutpaste': dict(lrs=(3e-4, 1e-3, 3e-3), grid_length=1, length=3),
}
LONG = dict(lrs=(1e-4, 3e-4, 1e-3, 3e-3), grid_length=4, length=16)


@cache
def split_cutpaste() -> tuple[Path, Path]:
    """Write the annotations of the images to train on and of those to choose settings by; return their paths."""
    whole = json.loads((ROOT / 'data/cutpaste/train.json').read_text())
    images = sorted(whole['images'], key=lambda image: image['id'])
    paths = []
    for name, chosen in (('train', images[:-HELD_OUT]), ('val', images[-HELD_OUT:])):
        known = {image['id'] for image in chosen}
        boxes = [box for box in whole['annotations'] if box['image_id'] in known]
        path = ROOT / f'work_dirs/cutpaste_{name}.json'
        text = json.dumps({**whole, 'images': chosen, 'annotations': boxes})
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:  # a run may be reading it
            path.write_text(text)
        paths.append(path)
    return paths[0], paths[1]


def slim(cfg: Config) -> None:
    """Halve a RetinaNet and its images."""
    cfg.model = cfg.model.to_dict()  # `{{_base_.model.neck}}` made one object of the model's neck and the auxiliary's
    halve(cfg.model)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = SCALE


def halve(cfg: Any) -> None:
    """Halve every neck and head in a model's config, those of auxiliaries too."""
    if not isinstance(cfg, dict):
        return
    for key, part in cfg.items():
        halve(part)
        if key in ('out_channels', 'in_channels', 'feat_channels', 'stacked_convs') and isinstance(part, int):
            cfg[key] = HALF.get(part, part)
        if key == 'octave_base_scale':
            cfg[key] = 2  # with 1, anchors are as wide as their stride: too far apart to match much
    if cfg.get('type') in PYRAMIDS:
        cfg.channels = HALF[cfg.get('channels', PYRAMIDS[cfg.type])]


def prepare(data: str, model: str, cfg: Config, run: Run) -> None:
    """A slim RetinaNet, the others as they are; scored after the last epoch, on the data of the run's split."""
    if model == SLIM:
        slim(cfg)
    if data == 'cutpaste':
        train, held_out = map(str, split_cutpaste())
        cfg.train_dataloader.dataset.ann_file = train
        if run.split == 'val':
            cfg.val_dataloader.dataset.update(ann_file=held_out, data_prefix=dict(img='train/'))
            cfg.val_evaluator.ann_file = held_out
    elif run.split == 'test':
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=PRETRAINED)
    cfg.train_cfg.update(max_epochs=run.length, val_interval=run.length)
    cfg.param_scheduler[1] = dict(
        type='CosineAnnealingLR', begin=0, end=run.length, T_max=run.length, by_epoch=True, convert_to_iter_based=True
    )


def protocol(data: str, model: str) -> Protocol:
    """The protocol of one data set and detector."""
    stem = model.removesuffix('_whole')
    files = {name: f'{path.format(stem)}_{data}.py' for name, path in MODELS[model].items()}
    said = {SLIM: f'{SCALE[0]} x {SCALE[1]} px', NOT_SLIM: 'the size of the configs'}
    return Protocol(
        data=f'{data}, {said.get(model, model)}',
        metric='coco/bbox_mAP',
        unit='epochs',
        configs={name: path for name, path in files.items() if (ROOT / 'configs' / path).exists()},
        variants={name: (config.replace('bccd', data), changed) for name, (config, changed) in VARIANTS.items()},
        prepare=partial(prepare, data, model),
        seeds=(0, 1),
        ablation_lr=1e-3,
        scale=100,
        also=('coco/bbox_mAP_50', 'coco/bbox_mAP_75'),
        **(LONG if model == NOT_SLIM else SETTINGS[data]),
    )


if __name__ == '__main__':
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument('--data', choices=list(SETTINGS), default='bccd')
    options.add_argument('--model', choices=list(MODELS), default='retinanet_r50')
    chosen = options.parse_known_args()[0]
    work_dir = f'work_dirs/{chosen.model}_{chosen.data}'
    Benchmark(protocol(chosen.data, chosen.model), __doc__, work_dir, [options]).main()
