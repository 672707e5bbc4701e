"""Every rule with ResNet-32 at K=16 on CIFAR-10, by a short protocol; see protocol.py."""

from mmengine.config import Config
from protocol import ROOT, Benchmark, Protocol, Run

CONFIGS = {
    'bp': 'bp/resnet32_bp_cifar10.py',
    'man': 'man/resnet32_man_k16_cifar10.py',
    'man-nobank': 'man/resnet32_man-nobank_k16_cifar10.py',
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


def prepare(cfg: Config, run: Run) -> None:
    """The first 10,000 training images, shrunk to 16 px; scored on the last 5,000 training images or the test ones."""
    cfg.merge_from_dict(Config.fromfile(ROOT / 'configs/_base_/cifar10_short.py').to_dict())
    if cfg.model.backbone.type == 'man_mm.LocalBackbone':
        cfg.model.backbone.probe_size = (16, 16)
    if run.split == 'test':
        cfg.val_dataloader = cfg.test_dataloader
    cfg.train_cfg.update(max_epochs=run.length, val_interval=run.length)
    cfg.param_scheduler[1].update(T_max=run.length, end=run.length)
    cfg.default_hooks.checkpoint.interval = 1


PROTOCOL = Protocol(
    data='CIFAR-10, 10,000 training images of 16 px',
    metric='accuracy/top1',
    unit='epochs',
    configs=CONFIGS,
    variants={name: ('man', changed) for name, changed in CHANGES.items()},
    prepare=prepare,
    lrs=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    grid_length=3,
    length=6,
    seeds=(0, 1, 2),
    ablation_lr=0.1,
)

if __name__ == '__main__':
    Benchmark(PROTOCOL, __doc__, 'work_dirs/cifar10_short').main()
