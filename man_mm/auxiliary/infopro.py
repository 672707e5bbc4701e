"""InfoPro (Wang et al., ICLR 2021): keep what reconstructs the image, and tell the classes apart."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import strict_keys
from ..local import Activation, Site, Task, image_channels, layers_of
from ..registry import MODELS
from .classifier import ClassifierAuxiliary
from .layers import conv_norm_relu, reset_weights

__all__ = ['InfoPro', 'supervised_contrast']

ESTIMATORS = ('softmax', 'contrast')
HIDDEN = 128
DECODER = 12


@MODELS.register_module()
@strict_keys
class InfoPro(ClassifierAuxiliary):
    """`lambda1 * BCE(decoder(x), image) + lambda2 * T(x, y)`.

    T is the cross-entropy of a classifier (`softmax`), or a supervised contrastive loss (`contrast`).

    Args:
        lambda1: Weight of the reconstruction in the first and in the last module that has an auxiliary; linear in the
            module's index between them.
        lambda2: Weight of T, likewise.
        estimator: `softmax` or `contrast`.
        temperature: Of the contrastive loss.
        kwargs: See `ClassifierAuxiliary`.

    Raises:
        ValueError: If a weight is no pair of numbers, or `estimator` is unknown.
    """

    def __init__(
        self,
        site: Site,
        lambda1: Sequence[float],
        lambda2: Sequence[float],
        estimator: str = 'softmax',
        temperature: float = 0.07,
        **kwargs: Any,
    ) -> None:
        super().__init__(site, **kwargs)
        if estimator not in ESTIMATORS:
            raise ValueError(f'auxiliary.estimator={estimator!r} must be one of {ESTIMATORS}.')
        if not (isinstance(temperature, (int, float)) and temperature > 0):
            raise ValueError(f'auxiliary.temperature={temperature!r} must be a number above 0.')
        last = site.partition.num_modules - 2
        self.lambda1 = _interpolate('lambda1', lambda1, site.module, last)
        self.lambda2 = _interpolate('lambda2', lambda2, site.module, last)
        self.estimator = estimator
        self.least_images = 2 if estimator == 'contrast' else 1
        self.temperature = temperature
        if estimator == 'contrast':
            if self.head != 'private':
                raise ValueError(
                    f"auxiliary.head={self.head!r} cannot act with auxiliary.estimator='contrast', which compares "
                    'embeddings and has no head: leave it out.'
                )
            self.head = 'shared'  # none of its own
        channels = site.map_shape()[0]
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, DECODER, 3, padding=1),
            nn.BatchNorm2d(DECODER),
            nn.ReLU(inplace=True),
            nn.Conv2d(DECODER, image_channels(site.net) or 3, 3, padding=1),
        )
        wider, stride = _next_scale(site)
        self.conv = conv_norm_relu(channels, wider, 3, stride)
        self.fc = nn.Linear(wider, HIDDEN)
        self.embed = nn.Linear(HIDDEN, HIDDEN) if estimator == 'contrast' else nn.Identity()
        self.num_features = HIDDEN

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Tensor:
        """Vectors (N, 128): what the classifier reads, or the embedding that is contrasted, not normalised."""
        assert isinstance(x, Tensor)
        return self.embed(F.relu(self.fc(self.conv(x).mean((2, 3)))))

    def reconstruct(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Logits of the image, (N, C, height, width)."""
        return self.decoder(F.interpolate(x, size=list(size), mode='bilinear', align_corners=True))

    def local_losses(self, x: Activation, taps: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
        """See `Auxiliary.local_losses`: `loss_reconstruction` and `loss_pred` or `loss_contrast`, weighted."""
        assert isinstance(x, Tensor)
        images = task.images()
        logits = self.reconstruct(x, images.shape[2:])
        losses = dict(
            loss_reconstruction=self.lambda1 * F.binary_cross_entropy_with_logits(logits.float(), images.float())
        )
        if self.estimator == 'softmax':
            losses['loss_pred'] = self.lambda2 * task.total((self(x, taps),))
        else:
            contrast = supervised_contrast(self(x, taps), task.labels(), self.temperature)
            losses['loss_contrast'] = self.lambda2 * contrast
        return losses

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`: the weights of the losses differ from module to module."""
        return (*layers_of(self), self.lambda1, self.lambda2)

    def init_weights(self) -> None:
        """Draw all layers afresh; the head follows its own config."""
        super().init_weights()
        for layers in (self.decoder, self.conv, self.fc, self.embed):
            reset_weights(layers)


def supervised_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020) of one view, in fp32: a scalar, the mean over all anchors.

    An anchor whose class no other image of the batch has contributes 0.

    Args:
        z: Embeddings (N, D), normalised here.
        labels: Classes (N,).
        temperature: Divides the similarities.

    Raises:
        ValueError: If the batch has one image: nothing to contrast it with.
    """
    if len(z) < 2:
        raise ValueError(
            "auxiliary.estimator='contrast' got a batch of one image, which has nothing to be contrasted with. Set "
            'train_dataloader.batch_size to 2 or more per device, and drop_last=True if the last batch has one image.'
        )
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.float(), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarities = (z @ z.T / temperature).masked_fill(itself, float('-inf'))
        log_probabilities = similarities.log_softmax(dim=1).masked_fill(itself, 0.0)
        positives = (labels[:, None] == labels[None, :]) & ~itself
        return -((log_probabilities * positives).sum(1) / positives.sum(1).clamp(min=1)).mean()


def _interpolate(key: str, ends: Sequence[float], module: int, last: int) -> float:
    """The weight of `module`, between `ends[0]` for module 0 and `ends[1]` for module `last`."""
    is_pair = isinstance(ends, (list, tuple)) and len(ends) == 2
    if not is_pair or not all(isinstance(end, (int, float)) and end >= 0 for end in ends):
        raise ValueError(
            f'auxiliary.{key}={ends!r} must be two weights, 0 or more: for the first and for the last auxiliary.'
        )
    return ends[0] + (ends[1] - ends[0]) * module / max(last, 1)


def _next_scale(site: Site) -> tuple[int, int]:
    """Channels of the next smaller map after the cut, and stride 2; without one, the module's own channels and 1."""
    channels, height, _ = site.map_shape()
    for shape in site.shapes()[site.end :]:
        if shape[1] < height:
            return shape[0], 2
    return channels, 1
