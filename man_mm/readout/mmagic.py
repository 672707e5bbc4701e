"""MMagic: every model with a pixel loss on what its generator makes, e.g. for super-resolution."""

from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from ..local import Auxiliary, image_channels
from .base import HostTask, Readout, register_readout, register_unserved

__all__ = ['EditorReadout', 'EditorTask']

BASES = 'mmagic.models.base_models'
register_unserved(
    f'{BASES}.one_stage.OneStageInpaintor',
    reason='it is an inpainter, whose network is its encdec, trained by a train_step of its own.',
)
register_unserved(
    f'{BASES}.base_gan.BaseGAN',
    f'{BASES}.base_translation_model.BaseTranslationModel',
    reason='it is a GAN, trained by a train_step of its own against a discriminator.',
)


class EditorTask(HostTask):
    """Editors: `forward_train(inputs, data_samples)` calls `forward_tensor(inputs)`, which is the generator's image."""

    extract = 'forward_tensor'
    train = 'forward_train'


@register_readout('mmagic.models.base_models.base_edit_model.BaseEditModel')
class EditorReadout(Readout):
    """An auxiliary makes an image itself, so there is neither a neck nor a head to share."""

    task_type = EditorTask
    scope = 'mmagic'

    @staticmethod
    def synthetic_target(cfg: Config, index: int, size: tuple[int, int], generator: torch.Generator) -> Any:
        """See `Readout.synthetic_target`: the image at high resolution; `size` is that of the low one.

        Raises:
            ValueError: If the config does not say the scale.
        """
        net = cfg.model.get('generator', {})
        net = net.get('backbone', net)
        scale = net.get('upscale_factor') or net.get('upscale')
        if scale is None:
            raise ValueError(
                'a batch without data is known for super-resolution of images by model.generator.upscale_factor or '
                '.upscale, which this config does not have.'
            )
        shape = (3, size[0] * scale, size[1] * scale)
        image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return import_module('mmagic.structures').DataSample(gt_img=image)

    def check(self, auxiliary: Auxiliary) -> None:
        """See `Readout.check`.

        Raises:
            ValueError: If the model has a training step of its own, as those with a discriminator do, or `auxiliary`
                asks for a neck or a classifier.
        """
        if auxiliary.neck is not None or auxiliary.head == 'private':
            raise ValueError(
                f'{type(self.host).__name__} has neither neck nor heads: auxiliary.neck must be left out, and '
                f'{type(auxiliary).__name__} with a private head is for classification. man_mm.SLM serves it.'
            )
        super().check(auxiliary)
        if type(self.host).train_step is not BaseModel.train_step:
            raise ValueError(
                f'model.type={type(self.host).__name__} trains by a train_step of its own, which local learning cannot '
                'reach: it serves models that are trained by one pixel loss, e.g. BaseEditModel.'
            )

    def check_batch(self, inputs: Any, targets: Any) -> None:
        """Compare channels of the images with what the generator was built for.

        Raises:
            ValueError: If they do not fit.
        """
        images = inputs['img'] if isinstance(inputs, dict) else inputs
        channels = image_channels(self.host.generator)
        if images.shape[1] != channels:
            raise ValueError(
                f'images have {images.shape[1]} channel(s), but model.generator reads {channels}: load them as such '
                '(LoadImageFromFile.color_type), or set generator.in_channels and out_channels.'
            )
