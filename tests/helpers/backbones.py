"""Tiny backbones of every family and option, with the scope to build each in."""

import pytest
import torch

from .detection import RESNET

NARROW = dict(base_channels=8, norm_cfg=dict(type='BN'))
REGNET = dict(type='RegNet', arch=dict(w0=8, wa=8, wm=2, group_w=4, depth=8, bot_mul=1.0), stem_channels=8)
MOBILENET = dict(type='MobileNetV2', widen_factor=0.25)
CONVNEXT = dict(arch=dict(depths=[2, 1, 2, 1], channels=[8, 16, 32, 64]), layer_scale_init_value=0.5)
MAPS = dict(type='mmpretrain.ConvNeXt', gap_before_final_norm=False, out_indices=[0, 1, 2, 3], **CONVNEXT)
HEADS = dict(depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4))
SWIN = dict(type='SwinTransformer', embed_dims=8, window_size=2, drop_path_rate=0.0, **HEADS)
PRETRAIN_SWIN = dict(type='SwinTransformer', arch=dict(embed_dims=8, **HEADS), window_size=2, drop_path_rate=0.0)
DEEP = dict(depth=50, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1), **NARROW)
"""Two stages, of seven blocks; all four have sixteen."""
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=0.25), stages=(False, True), position='after_conv3')
DCN = dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True))
MMDET = {
    'resnet18': RESNET,
    'resnet50': dict(type='ResNet', depth=50, **NARROW),
    'caffe': dict(type='ResNet', style='caffe', **DEEP),
    'resnetv1d': dict(type='ResNetV1d', stem_channels=16, **DEEP),
    'resnext': dict(type='ResNeXt', groups=2, base_width=4, **DEEP),
    'res2net': dict(DEEP, type='Res2Net', scales=2, base_width=13, base_channels=16),
    'resnest': dict(type='ResNeSt', stem_channels=16, radix=2, reduction_factor=4, **DEEP),
    'deep_stem': {**RESNET, 'deep_stem': True, 'stem_channels': 16},
    'avg_down': {**RESNET, 'avg_down': True},
    'plugins': dict(type='ResNet', plugins=[CONTEXT], **DEEP),
    'dcn': dict(type='ResNet', **DCN, **DEEP),
    'with_cp': {**RESNET, 'with_cp': True},
    'frozen_stages': {**RESNET, 'frozen_stages': 1},
    'norm_train': {**RESNET, 'norm_eval': False},
    'group_norm': {**RESNET, 'norm_cfg': dict(type='GN', num_groups=4)},
    'some_outputs': {**RESNET, 'out_indices': (1, 2)},
    'one_output': {**RESNET, 'out_indices': (3,)},
    'three_stages': {**RESNET, 'num_stages': 3, 'strides': (1, 2, 2), 'dilations': (1, 1, 1), 'out_indices': (0, 2)},
    'dilated': {**RESNET, 'strides': (1, 2, 1, 1), 'dilations': (1, 1, 2, 4)},
    'regnet': REGNET,
    'regnet_frozen': {**REGNET, 'frozen_stages': 1, 'out_indices': (1, 3)},
    'mobilenet': MOBILENET,
    'mobilenet_frozen': {**MOBILENET, 'frozen_stages': 1, 'out_indices': (2, 4, 6), 'norm_eval': True},
}
PRETRAIN_DEEP = dict(depth=50, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,), base_channels=8)
PRETRAIN = {
    'pretrain_resnet18': dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
    'pretrain_resnet50': dict(type='ResNet', depth=50, out_indices=(0, 1, 2, 3), stem_channels=8, base_channels=8),
    'pretrain_v1d': dict(type='ResNetV1d', stem_channels=16, **PRETRAIN_DEEP),
    'pretrain_se': dict(type='SEResNet', se_ratio=4, stem_channels=8, **PRETRAIN_DEEP),
    'pretrain_cifar': dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8),
    'cifar': dict(type='man_mm.CIFARResNet', depth=14, base_channels=4),
    'pretrain_regnet': REGNET,
    'pretrain_mobilenet': MOBILENET,
}
MMDET_NORMED = {
    'convnext': MAPS,
    'convnext_frozen': {**MAPS, 'frozen_stages': 1, 'out_indices': [0, 2]},
    'convnext_v2': {**MAPS, 'use_grn': True, 'layer_scale_init_value': 0.0, 'linear_pw_conv': False},
    'swin': SWIN,
    'swin_frozen': {**SWIN, 'frozen_stages': 1, 'out_indices': (0, 2)},
    'swin_positions': {**SWIN, 'use_abs_pos_embed': True, 'pretrain_img_size': 64, 'patch_norm': False},
}
PRETRAIN_NORMED = {
    'pretrain_convnext': dict(type='ConvNeXt', **CONVNEXT),
    'pretrain_convnext_pooled': dict(type='ConvNeXt', out_indices=[1, 3], **CONVNEXT),
    'pretrain_swin': PRETRAIN_SWIN,
    'pretrain_swin_padded': {**PRETRAIN_SWIN, 'window_size': 3, 'pad_small_map': True, 'out_indices': (1, 3)},
}


def scoped(mmdet, mmpretrain):
    """Configs with the scope to build each in."""
    return {**{k: (v, 'mmdet') for k, v in mmdet.items()}, **{k: (v, 'mmpretrain') for k, v in mmpretrain.items()}}


COVERED = {
    'caffe',
    'resnext',
    'deep_stem',
    'avg_down',
    'with_cp',
    'norm_train',
    'some_outputs',
    'dilated',
    'regnet',
    'mobilenet_frozen',
    'pretrain_v1d',
    'pretrain_se',
    'pretrain_resnet50',
    'pretrain_regnet',
    'pretrain_mobilenet',
    'convnext',
    'swin',
    'swin_positions',
    'pretrain_convnext_pooled',
    'pretrain_swin',
}
"""Variants of which every part is in another one of the same layers. What units make is compared for them too."""


def short(names):
    """Names to parametrize by; what is covered by another variant is long."""
    return [pytest.param(name, marks=pytest.mark.long) if name in COVERED else name for name in names]


BACKBONES = scoped(MMDET, PRETRAIN)
NORMED = scoped(MMDET_NORMED, PRETRAIN_NORMED)
"""Backbones that normalise each output: what they return is not what their stages make."""
ALL = {**BACKBONES, **NORMED}
DETECTED = {
    'regnet': (dict(REGNET, out_indices=(1, 2, 3)), [16, 32, 64]),
    'mobilenet': (dict(MOBILENET, out_indices=(2, 4, 7)), [8, 24, 1280]),
    'convnext': (dict(MAPS, out_indices=[1, 2, 3]), [16, 32, 64]),
    'swin': (dict(SWIN, out_indices=(1, 2, 3)), [16, 32, 64]),
    'swin_frozen': (dict(SWIN, out_indices=(1, 2, 3), frozen_stages=2), [16, 32, 64]),
}
"""Backbones of MMDetection whose first map has a stride of 8 px, and the widths of their maps."""
CLASSIFIED = {
    'convnext': (PRETRAIN_NORMED['pretrain_convnext'], None, 64),
    'mobilenet': (dict(MOBILENET, out_indices=(7,)), dict(type='GlobalAveragePooling'), 1280),
    'swin': (PRETRAIN_SWIN, dict(type='GlobalAveragePooling'), 64),
}
"""Backbones of MMPretrain, the neck that makes one vector of what they return, and its width."""
REFUSED = {
    'swin_outputs': (
        dict(PRETRAIN_SWIN, img_size=64, out_after_downsample=True),
        'mmpretrain',
        'SwinTransformer with out_after_downsample=True',
    ),
    'swin_positions': (
        dict(PRETRAIN_SWIN, img_size=64, use_abs_pos_embed=True),
        'mmpretrain',
        'SwinTransformer with .*use_abs_pos_embed=True',
    ),
}
"""Variants that their family's description does not cover, the scope to build each in, and what the error says."""
NECKLESS = dict(type='man_mm.SLM')


def wrapped(cfg, num_modules, **auxiliary):
    options = dict(type='man_mm.LocalBackbone', backbone=cfg, num_modules=num_modules)
    return dict(**options, auxiliary={**NECKLESS, **auxiliary})


def check_mirrors(ours, source):
    for auxiliary in ours.auxiliaries:
        mirrored = auxiliary.mirrored_keys()
        assert mirrored.keys() == {key for key in auxiliary.state_dict() if key.startswith('layers.')}
        for own, key in mirrored.items():
            assert torch.equal(auxiliary.state_dict()[own], source[key])
