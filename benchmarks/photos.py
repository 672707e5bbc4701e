"""A narrow EDSR, x2 or x4, by back-propagation and locally, on the photographs, by a short protocol; see protocol.py.

The learning rates are compared on crops of the last six training photographs, which no run trains on; `test` means the
validation photographs, whole. x4 starts, as EDSR does, from the weights of x2 by the same method and seed, and takes
one learning rate, x2's.
"""

import argparse
import sys
from functools import cache, partial
from pathlib import Path

from mmengine.config import Config
from protocol import ROOT, Benchmark, Protocol, Run

X2_RUNS = ROOT / 'work_dirs/photos_x2'
HELD_OUT = 6
"""Training photographs, the last by name, that are left out of training."""
VARIANTS = {
    'man-2-units': {'auxiliary.units_per_stage': 2},
    'man-random': {'auxiliary.init': 'random'},
    'man-shared-tail': {'auxiliary.tail': 'shared', 'auxiliary.shared_head_grad': 'mean'},
}


@cache
def split_annotations() -> tuple[Path, Path]:
    """Write the lists of crops to train on and of crops to choose settings by; return their paths."""
    source = ROOT / 'data/photos/train/meta_info_HR_sub.txt'
    if not source.exists():
        sys.exit(f'{source} is missing: cut the training photographs by tools/dataset_tools/crop_pairs.py first.')
    lines = source.read_text().splitlines()
    photo_of = {line: line.split(' ')[0].rsplit('_s', 1)[0] for line in lines}
    held_out = set(sorted(set(photo_of.values()))[-HELD_OUT:])
    train, val = (ROOT / f'work_dirs/photos_{name}.txt' for name in ('train', 'val'))
    train.parent.mkdir(exist_ok=True)
    for path, wanted in ((train, False), (val, True)):
        path.write_text(''.join(f'{line}\n' for line in lines if (photo_of[line] in held_out) is wanted))
    return train, val


def weights_of_x2(run: Run) -> str:
    """The checkpoint at the end of the run at x2 by the same method, for a variant that which it varies, and seed."""
    method = 'man-k16' if run.method in VARIANTS else run.method
    pattern = f'{method}_lr*_seed{run.seed}_test_*iters/iter_*.pth'
    ends = [path for path in X2_RUNS.glob(pattern) if path.parent.name.endswith(f'_test_{path.stem[5:]}iters')]
    if len(ends) != 1:
        sys.exit(f'x4 starts from x2: {X2_RUNS / pattern} should be the end of one run, but there are {len(ends)}.')
    return str(ends[0])


def prepare(scale: int, cfg: Config, run: Run) -> None:
    """Train on all but the held-out photographs; score on those, or on the validation photographs."""
    if scale == 4:
        cfg.load_from = weights_of_x2(run)
    train, val = split_annotations()
    cfg.train_dataloader.dataset.ann_file = str(train)
    if run.split == 'val':
        prefix = dict(img=f'LR_bicubic/X{scale}_sub', gt='HR_sub')
        cfg.val_dataloader.dataset.update(data_root='data/photos/train', data_prefix=prefix, ann_file=str(val))
        cfg.val_evaluator.metrics = [metric for metric in cfg.val_evaluator.metrics if metric.type == 'PSNR']
    cfg.train_cfg.update(max_iters=run.length, val_interval=run.length)
    cfg.param_scheduler[1].update(T_max=run.length, end=run.length)


def protocol(scale: int) -> Protocol:
    """The protocol of one scale."""
    methods = {'bp': 'bp', 'man-k4': 'man_k4', 'man-k16': 'man_k16', 'man-nobank-k16': 'man-nobank_k16'}
    methods |= {'man-lean-k16': 'manlean_k16', 'dgl-k16': 'dgl_k16'}
    folders = {'bp': 'bp', 'dgl-k16': 'dgl'}
    configs = {m: f'{folders.get(m, "man")}/edsr_x{scale}_{name}_photos.py' for m, name in methods.items()}
    return Protocol(
        data=f'photos, x{scale}',
        metric='PSNR',
        unit='iters',
        configs=configs,
        variants={name: ('man-k16', changed) for name, changed in VARIANTS.items()},
        prepare=partial(prepare, scale),
        lrs={2: (3e-4, 1e-3, 3e-3, 1e-2), 4: (3e-3,)}[scale],
        grid_length=300,
        length=2000,
        seeds=(0,),
        ablation_lr=3e-3,
    )


if __name__ == '__main__':
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument('--scale', type=int, choices=(2, 4), default=2)
    scale = options.parse_known_args()[0].scale
    Benchmark(protocol(scale), __doc__, f'work_dirs/photos_x{scale}', [options]).main()
