"""Every rule with a fast net at K=4 on the whole of CIFAR-10; see protocol.py and fast_net.py.

8 epochs of 50,000 images in batches of 125, label smoothing of 0.1, crops reflected by 2 px; the learning rates are
compared after one epoch of the first 45,000 training images on the other 5,000.
"""

from functools import partial

from mmengine.config import Config
from protocol import Benchmark, Protocol, Run

NUM_MODULES = 4
BATCH = 125
HELD_OUT = 5000
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
    'auglocal': 'auglocal/resnet32_auglocal_k16_cifar10.py',
}
"""Where each rule's settings come from; the network, the data and the schedule are this file's."""


def prepare(cfg: Config, run: Run) -> None:
    """Put the fast net, its data and its schedule into a config of ResNet-32."""
    net = dict(type='FastNet')
    if cfg.model.backbone.type == 'man_mm.LocalBackbone':
        cfg.model.backbone.backbone = net  # update() would keep the old one's keys
        cfg.model.backbone.num_modules = NUM_MODULES
    else:
        cfg.model.backbone = net
    cfg.model.head.in_channels = 192
    cfg.model.head.loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10, mode='original')
    cfg.custom_imports = dict(imports=['fast_net'], allow_failed_imports=False)
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='ChannelsLastHook')]

    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=BATCH, num_workers=0)
        loader.dataset.check_md5 = False
    cfg.train_dataloader.dataset.pipeline[0].crop_size = 36
    images = 50_000 - (HELD_OUT if run.split == 'val' else 0)
    if run.split == 'val':
        cfg.train_dataloader.dataset.indices = images
        cfg.val_dataloader.dataset.update(split='train', test_mode=False, indices=-HELD_OUT)

    cfg.optim_wrapper.optimizer.weight_decay = 5e-4
    steps = images // BATCH * run.length
    by_step = partial(dict, type='LinearLR', by_epoch=False)
    cfg.param_scheduler = [
        by_step(start_factor=0.1, begin=0, end=steps // 4),
        by_step(start_factor=1.0, end_factor=0.01, begin=steps // 4, end=steps),
    ]
    cfg.train_cfg.update(max_epochs=run.length, val_interval=run.length)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=50)


if __name__ == '__main__':
    protocol = Protocol(
        data='CIFAR-10, 50,000 training images of 32 px',
        metric='accuracy/top1',
        unit='epochs',
        configs=CONFIGS,
        variants={},
        prepare=prepare,
        lrs=(0.05, 0.1, 0.2, 0.4),
        grid_length=1,
        length=8,
        seeds=(0, 1, 2),
        ablation_lr=0.1,
    )
    Benchmark(protocol, __doc__, 'work_dirs/cifar10_fast').main()
