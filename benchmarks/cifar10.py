"""Every rule on CIFAR-10, by one of three protocols; see protocol.py.

`short`: ResNet-32 at K=16 on the first 10,000 images, shrunk to 16 px, 6 epochs; it separates rules and ranks nothing.
`fast`: six wide convolutions (fast_net.py) at K=4 on all images, 8 epochs of batches of 125, label smoothing of 0.1:
near the level that such a net reaches, in half an hour of a core for back-propagation.
`whole`: ResNet-32 at K=16 on all images, 30 epochs of batches of 128; for a GPU, and not run to its end.
Learning rates are compared on the last 5,000 training images, on which those runs do not train.
"""

import argparse
from functools import partial

from mmengine.config import Config
from protocol import ROOT, Benchmark, Protocol, Run

CONFIGS = {
    'bp': 'bp/resnet32_bp_cifar10.py',
    'man': 'man/resnet32_man_k16_cifar10.py',
    'man-nobank': 'man/resnet32_man-nobank_k16_cifar10.py',
    'man-lean': 'man/resnet32_manlean_k16_cifar10.py',
    'man-follow': 'man/resnet32_man-follow_k16_cifar10.py',
    'man-frozen': 'man/resnet32_man-frozen_k16_cifar10.py',
    'dgl': 'dgl/resnet32_dgl_k16_cifar10.py',
    'predsim': 'predsim/resnet32_predsim_k16_cifar10.py',
    'infopro': 'infopro/resnet32_infopro_k16_cifar10.py',
    'infopro-contrast': 'infopro/resnet32_infopro-contrast_k16_cifar10.py',
    'auglocal': 'auglocal/resnet32_auglocal_k16_cifar10.py',
}
CHANGES = {
    'slm-bank': {},
    'slm': {'auxiliary.bank_vectors': False},
    'bank': {'auxiliary.units_per_stage': 0},
    'neither': {'auxiliary.bank_vectors': False, 'auxiliary.units_per_stage': 0},
    'slm-2-units': {'auxiliary.bank_vectors': False, 'auxiliary.units_per_stage': 2},
    'slm-later-stages': {'auxiliary.bank_vectors': False, 'auxiliary.cut_stage': False},
    'slm-2-units-later-stages': {
        'auxiliary.bank_vectors': False,
        'auxiliary.units_per_stage': 2,
        'auxiliary.cut_stage': False,
    },
    'slm-copy': {'auxiliary.bank_vectors': False, 'auxiliary.init': 'copy'},
}
"""Variants of MAN: the SLM and the bank apart, then SLMs of other shapes without the bank."""


HELD_OUT = 5000


def prepare_short(cfg: Config, run: Run) -> None:
    """The first 10,000 training images, shrunk to 16 px; scored on the last 5,000 training images or the test ones."""
    cfg.merge_from_dict(Config.fromfile(ROOT / 'configs/_base_/cifar10_short.py').to_dict())
    if cfg.model.backbone.type == 'man_mm.LocalBackbone':
        cfg.model.backbone.probe_size = (16, 16)
    if run.split == 'test':
        cfg.val_dataloader = cfg.test_dataloader
    cfg.train_cfg.update(max_epochs=run.length, val_interval=run.length)
    cfg.param_scheduler[1].update(T_max=run.length, end=run.length)
    cfg.default_hooks.checkpoint.interval = 1


def prepare_whole(cfg: Config, run: Run) -> None:
    """ResNet-32 and its recipe, of 400 epochs in batches of 1024, in fewer epochs and smaller batches."""
    _on_all_images(cfg, run, 128)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
        dict(type='CosineAnnealingLR', T_max=run.length, by_epoch=True, end=run.length, convert_to_iter_based=True),
    ]


def prepare_fast(cfg: Config, run: Run) -> None:
    """Put the fast net, its data and its schedule into a config of ResNet-32."""
    net = dict(type='FastNet')
    if cfg.model.backbone.type == 'man_mm.LocalBackbone':
        cfg.model.backbone.backbone = net  # update() would keep the old one's keys
        cfg.model.backbone.num_modules = 4
    else:
        cfg.model.backbone = net
    cfg.model.head.in_channels = 192
    cfg.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10, mode='original')
    cfg.custom_imports = dict(imports=['fast_net'], allow_failed_imports=False)
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='ChannelsLastHook')]
    images = _on_all_images(cfg, run, batch := 125)
    cfg.train_dataloader.dataset.pipeline[0].crop_size = 36
    cfg.optim_wrapper.optimizer.weight_decay = 5e-4
    steps = images // batch * run.length
    by_step = partial(dict, type='LinearLR', by_epoch=False)
    cfg.param_scheduler = [
        by_step(start_factor=0.1, begin=0, end=steps // 4),
        by_step(start_factor=1.0, end_factor=0.01, begin=steps // 4, end=steps),
    ]


def _on_all_images(cfg: Config, run: Run, batch: int) -> int:
    """Train on all images, or on all but the held-out ones; return how many these are."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=batch, num_workers=0)
        loader.dataset.check_md5 = False
    images = 50_000 - (HELD_OUT if run.split == 'val' else 0)
    if run.split == 'val':
        cfg.train_dataloader.dataset.indices = images
        cfg.val_dataloader.dataset.update(split='train', test_mode=False, indices=-HELD_OUT)
    cfg.train_cfg.update(max_epochs=run.length, val_interval=run.length)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=50)
    return images


def protocol(name: str) -> Protocol:
    """One of the three."""
    variants = {variant: ('man', changed) for variant, changed in CHANGES.items()}
    make = partial(Protocol, metric='accuracy/top1', unit='epochs', configs=CONFIGS, seeds=(0, 1, 2), ablation_lr=0.1)
    match name:
        case 'short':
            return make(
                data='CIFAR-10, 10,000 training images of 16 px',
                variants=variants,
                prepare=prepare_short,
                lrs=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
                grid_length=3,
                length=6,
            )
        case 'fast':
            return make(
                data='CIFAR-10, 50,000 training images of 32 px, FastNet',
                variants={},
                prepare=prepare_fast,
                lrs=(0.1, 0.2, 0.4),
                grid_length=1,
                length=8,
            )
    return make(
        data='CIFAR-10, 50,000 training images of 32 px',
        variants=variants,
        prepare=prepare_whole,
        lrs=(0.03, 0.1, 0.3, 1.0),
        grid_length=3,
        length=30,
    )


if __name__ == '__main__':
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument('--protocol', choices=('short', 'fast', 'whole'), default='short')
    chosen = options.parse_known_args()[0].protocol
    Benchmark(protocol(chosen), __doc__, f'work_dirs/cifar10_{chosen}', [options]).main()
