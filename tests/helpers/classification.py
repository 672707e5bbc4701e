"""Tiny classifiers and batches of images: the rules' counterpart of `models`."""

import torch
from mmpretrain.structures import DataSample

from .detection import build

CLASSES = 10
RULES = {
    'man': dict(type='man_mm.SLM', head='private', bank_vectors=True),
    'dgl': dict(type='man_mm.DGL'),
    'predsim': dict(type='man_mm.PredSim', max_features=64),
    'infopro': dict(type='man_mm.InfoPro', lambda1=(5.0, 0.2), lambda2=(0.05, 0.5)),
    'contrast': dict(type='man_mm.InfoPro', lambda1=(5.0, 0.2), lambda2=(0.05, 0.5), estimator='contrast'),
    'auglocal': dict(type='man_mm.AugLocal', depth=2),
}
PREPROCESSOR = dict(num_classes=CLASSES, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7], to_rgb=False)


def classifier(rule=None, num_modules=4, net_depth=14, width=4, size=16, model=None, **auxiliary):
    """Config of an ImageClassifier on a CIFAR ResNet; `rule=None` gives the plain one.

    A `net_depth` of 6n + 2 has 3n + 1 units: 7 for 14, 16 for 32. `auxiliary` overrides the rule's options; those that
    start with `backbone_` go to the LocalBackbone.
    """
    net = dict(type='man_mm.CIFARResNet', depth=net_depth, base_channels=width)
    if rule is not None:
        own = {key[9:]: auxiliary.pop(key) for key in list(auxiliary) if key.startswith('backbone_')}
        net = dict(
            type='man_mm.LocalBackbone',
            backbone=net,
            num_modules=num_modules,
            auxiliary={**RULES[rule], **auxiliary},
            **{'probe_size': (size, size), **own},
        )
    whole = dict(
        type='ImageClassifier',
        data_preprocessor=PREPROCESSOR,
        backbone=net,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=4 * width, init_cfg=None),
    )
    return {**whole, **(model or {})}


def resnet32(rule, num_modules=16, size=32, **auxiliary):
    """The model of the papers' experiments, built."""
    return make(classifier(rule, num_modules, net_depth=32, width=16, size=size, **auxiliary))


def make(cfg, seed=0):
    return build(cfg, seed, scope='mmpretrain')


def batch(num=4, size=16, labels=None, channels=3, seed=0):
    """Images and their classes, as a data loader hands them out."""
    generator = torch.Generator().manual_seed(seed)
    labels = list(range(num)) if labels is None else labels
    shape, kind = (channels, size, size), dict(dtype=torch.uint8, device='cpu')
    return dict(
        inputs=[torch.randint(0, 256, shape, generator=generator, **kind) for _ in range(num)],
        data_samples=[DataSample().set_gt_label(label) for label in labels],
    )
