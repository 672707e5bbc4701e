"""What trains the modules of a host: chosen by its library, and by what its config has; the first form that builds."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .light_parts import LIGHT, light_parts
from .local import find_local_backbone
from .local.names import NO_HEADS, at_path, backbone_path, holder_path
from .readout import build_readout, holder_of, readout_of

__all__ = ['Form', 'forms', 'model_that_trains', 'recomputed_functions']

BY_MEMORY = dict(partition='memory', probe_size=(512, 512))


@dataclass(frozen=True)
class Form:
    """A way to train the modules of a host.

    Args:
        said: What it is, in words.
        auxiliary: Config of what trains a module.
        backbone: Further keys of `man_mm.LocalBackbone`.
    """

    said: str
    auxiliary: dict[str, Any]
    backbone: dict[str, Any] = field(default_factory=dict)


def forms(cfg: Config, lean: bool) -> list[Form]:
    """Forms for the host of a whole plain config, the one to prefer first; the last one asks least of the host."""
    kind = {'mmpretrain': _classifiers, 'mmagic': _editors}.get(getattr(readout_of(cfg), 'scope', ''), _detectors)
    return kind(cfg, lean)


def _detectors(cfg: Config, lean: bool) -> list[Form]:
    """Of detectors, and of all whose heads read maps: a neck of its own, the model's heads."""
    model = _holder(cfg)
    neck = model.get('neck')
    shared = dict(neck=neck, shared_head_grad='mean') if neck else dict(shared_head_grad='mean')
    reads = ('its own copy of the neck and ' if neck else '') + "the model's own heads, by the mean of all gradients"
    whole = dict(type='man_mm.SLM', **shared)
    if not lean:
        return [Form(f'man_mm.SLM with {reads}', whole)]
    found = [Form(f'man_mm.SLM with {reads}; slim auxiliaries do not fit this model', whole, BY_MEMORY)]
    if neck:
        slim = dict(type='man_mm.SlimSLM', **shared)
        found.insert(0, Form(f'man_mm.SlimSLM with {reads}', slim, BY_MEMORY))
    light = light_parts(model)
    if light is not None:
        heads = 'a head' if len(light['head']) == 1 else 'heads'
        said = f'man_mm.SlimSLM with a neck and {heads} of its own, {LIGHT} channels wide'
        found.insert(0, Form(said, dict(type='man_mm.SlimSLM', **light), BY_MEMORY))
    return found


def _holder(cfg: Config) -> Any:
    """Config of what has backbone, neck and heads: the model, or the detector in a tracker."""
    return at_path(cfg.model, holder_path(cfg.model))


def _classifiers(cfg: Config, lean: bool) -> list[Form]:
    """Of MMPretrain's models: heads of their own, and necks where the model's trains."""
    neck = cfg.model.get('neck')
    own: dict[str, Any] = dict(type='man_mm.SLM', neck=neck) if _trains(cfg, neck) else dict(type='man_mm.SLM')
    private = {**own, 'head': 'private'}
    size = _image_size(cfg)
    if lean:
        said = "man_mm.SLM with a head of its own, without the bank's vectors"
        by_memory = dict(partition='memory', **size)
        later = Form(f"{said}, nor units for the cut's own stage", {**private, 'cut_stage': False}, by_memory)
        shared = Form("man_mm.SLM with the model's own head", {**own, 'shared_head_grad': 'mean'}, by_memory)
        return [later, Form(said, private, by_memory), shared]
    return [
        Form(
            "man_mm.SLM with a head of its own, which reads the bank's vectors", {**private, 'bank_vectors': True}, size
        ),
        Form('man_mm.SLM with a head of its own', private),
        Form("man_mm.SLM with the model's own head, by the mean of all gradients", {**own, 'shared_head_grad': 'mean'}),
    ]


def _trains(cfg: Config, part: Any) -> bool:
    if not part:
        return False
    with _apart(cfg):
        return any(p.requires_grad for p in MODELS.build(deepcopy(part)).parameters())


def _image_size(cfg: Config) -> dict[str, tuple[int, int]]:
    """`probe_size` in px that the images of the training pipeline have, if it says so."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    for step in reversed(dataset.get('pipeline') or []):
        size = step.get('crop_size', step.get('scale'))
        if isinstance(size, int):
            return dict(probe_size=(size, size))
        if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return dict(probe_size=(size[1], size[0]))
    return {}


def _editors(cfg: Config, lean: bool) -> list[Form]:
    """Of MMagic's models, which have neither neck nor heads: an auxiliary makes the image by a tail of its own."""
    whole = Form('man_mm.SLM with its own copy of the layers that make the image', dict(type='man_mm.SLM'))
    if not lean:
        return [whole]
    by_memory = dict(partition='memory', probe_size=(48, 48))
    chunks = dict(**by_memory, tail_chunks=8)
    slim = dict(type='man_mm.SLM', units_per_stage=0)
    said = "man_mm.SLM without units; the network's tail runs on an eighth of a batch at a time"
    found = [
        Form(said, slim, chunks),
        Form(f"{whole.said}; the network's tail runs on an eighth of a batch at a time", whole.auxiliary, chunks),
        Form(whole.said, whole.auxiliary, by_memory),
    ]
    net = cfg.model.get('generator') or {}
    if {'mid_channels', 'upscale_factor', 'out_channels'} <= set(net):
        upsample = dict(
            type='pixel_shuffle',
            in_channels=net['mid_channels'],
            out_channels=net['out_channels'],
            scale_factor=net['upscale_factor'],
            upsample_kernel=3,
        )
        tail = dict(upsample=upsample, conv_last=None)
        found.insert(
            0, Form(f'{said}, the auxiliary makes the image by one convolution', {**slim, 'tail': tail}, chunks)
        )
    return found


def model_that_trains(cfg: Config, num_modules: int) -> Any:
    """The model of a whole localized config, built, after the checks that its training would start with.

    Raises:
        ValueError: If one of them fails; other errors are those of the model's own constructor.
    """
    with _apart(cfg):
        parts = {**deepcopy(cfg.model)}
        if cfg.get('data_preprocessor') is not None:
            parts.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
        host = MODELS.build(parts)
        readout = build_readout(host, num_modules)
        backbone = find_local_backbone(host)
        if backbone.num_modules > 1:
            readout.check(backbone.auxiliaries[0])
            net = at_path(cfg.model, backbone_path(cfg.model) or ())
            if (net.get('auxiliary') or {}).get('bank_vectors') and not any(
                auxiliary.reads_pooled for auxiliary in backbone.auxiliaries
            ):
                raise ValueError('auxiliary.bank_vectors=True has nothing to act on.')
    return host


def recomputed_functions(host: nn.Module) -> list[str]:
    """Functions of dense heads that `man_mm.ActivationCheckpointHook` may recompute, level by level.

    None of heads with buffers: what counts in them (batch norm, losses by statistics) would count twice.
    """
    path = holder_path(host._modules)
    return [
        '.'.join((*path, name, method))
        for name, head in holder_of(host).named_children()
        if name not in NO_HEADS and hasattr(head, 'forward_single') and not any(True for _ in head.buffers())
        for method in ('forward_single', 'loss_by_feat_single')
        if hasattr(head, method)
    ]


@contextmanager
def _apart(cfg: Config) -> Iterator[None]:
    """In the scope of a config; draws no random numbers of others, and keeps warnings for the model that trains."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), torch.random.fork_rng(devices=[]):
            yield
    finally:
        logging.disable(before)
