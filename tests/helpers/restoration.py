"""Tiny super-resolution models and batches of image pairs."""

import torch
from mmagic.structures import DataSample

from .detection import build

EDSR = dict(type='EDSRNet', in_channels=3, out_channels=3, mid_channels=8, num_blocks=4, upscale_factor=2)
SWINIR = dict(
    type='SwinIRNet',
    upscale=2,
    img_size=16,
    window_size=8,
    embed_dim=12,
    depths=[2, 2, 2],
    num_heads=[2, 2, 2],
    upsampler='pixelshuffle',
)
NETS = {'edsr': EDSR, 'swinir': SWINIR}


def editor(net='edsr', num_modules=3, scale=2, backbone=None, auxiliary=None, **options):
    """Config of a BaseEditModel; with `num_modules=None` a plain one."""
    scales = dict(upscale_factor=scale) if net == 'edsr' else dict(upscale=scale)
    generator = {**NETS[net], **scales, **(backbone or {})}
    if num_modules is not None:
        slm = dict(type='man_mm.SLM', **(auxiliary or {}))
        generator = dict(
            type='man_mm.LocalBackbone', backbone=generator, num_modules=num_modules, auxiliary=slm, **options
        )
    return dict(
        type='BaseEditModel',
        generator=generator,
        pixel_loss=dict(type='L1Loss', loss_weight=1.0, reduction='mean'),
        data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
    )


def make(cfg, seed=0):
    return build(cfg, seed, scope='mmagic')


def batch(num=2, size=16, scale=2, channels=3, seed=0):
    """Pairs of images as a data loader hands them out: low resolution `size` px, high resolution `scale` times it."""
    generator = torch.Generator().manual_seed(seed)

    def image(side):
        return torch.randint(0, 256, (channels, side, side), generator=generator, dtype=torch.uint8, device='cpu')

    pairs = [(image(size), image(size * scale)) for _ in range(num)]
    return dict(inputs=[low for low, _ in pairs], data_samples=[DataSample(gt_img=high) for _, high in pairs])
