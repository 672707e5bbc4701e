"""PredSim (Nokland & Eidnes, ICML 2019): a similarity-matching loss beside a linear classifier."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import count, strict_keys
from ..local import Activation, Site, Task, layers_of
from ..registry import MODELS
from .classifier import ClassifierAuxiliary
from .layers import reset_weights

__all__ = ['PredSim', 'pooling_kernel', 'similarity']


@MODELS.register_module()
@strict_keys
class PredSim(ClassifierAuxiliary):
    """`(1 - beta) * CE(classifier(pool(x)), y) + beta * MSE(S(conv(x)), S(onehot(y)))`.

    Made for one image size: the width of the linear classifier follows from `LocalBackbone.probe_size`.

    Args:
        beta: Weight of the similarity loss against the classifier's.
        max_features: The output of the module is pooled until it has at most that many features.
        kwargs: See `ClassifierAuxiliary`.

    Raises:
        ValueError: If `beta` is outside 0 to 1, or no pooling comes down to `max_features`.
    """

    def __init__(self, site: Site, beta: float = 0.99, max_features: int = 512, **kwargs: Any) -> None:
        super().__init__(site, **kwargs)
        if not (isinstance(beta, (int, float)) and 0 <= beta <= 1):
            raise ValueError(f'auxiliary.beta={beta!r} must be a weight from 0 to 1.')
        count('auxiliary.max_features', max_features)
        self.beta = beta
        self.shape = site.map_shape()
        self.kernel = pooling_kernel(self.shape, max_features)
        pooled = F.avg_pool2d(torch.zeros(1, *self.shape, device='meta'), self.kernel, padding=self._padding())
        self.num_features = pooled[0].numel()
        self.conv = nn.Conv2d(self.shape[0], self.shape[0], 3, padding=1, bias=False)

    def _padding(self) -> tuple[int, int]:
        """Half a kernel where the kernel does not divide the size."""
        height, width = (
            kernel // 2 if size % kernel else 0 for size, kernel in zip(self.shape[1:], self.kernel, strict=True)
        )
        return height, width

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Tensor:
        """See `ClassifierAuxiliary.forward`: the pooled output of the module, flattened."""
        assert isinstance(x, Tensor)
        if x.shape[1:] != self.shape:
            raise ValueError(
                f'man_mm.PredSim was built for maps {self.shape} of this module, but got {tuple(x.shape[1:])}: set '
                'backbone.probe_size to the height and width of the training images, which must all have it.'
            )
        return F.avg_pool2d(x, self.kernel, padding=self._padding()).flatten(1)

    def local_losses(self, x: Activation, taps: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
        """See `Auxiliary.local_losses`: `loss_pred` and `loss_sim`, weighted. The similarity is taken in fp32."""
        assert isinstance(x, Tensor)
        projected = self.conv(x)
        with torch.autocast(x.device.type, enabled=False):
            loss_sim = F.mse_loss(similarity(projected.float()), similarity(task.scores()))
        return dict(
            loss_pred=(1 - self.beta) * task.total((self(x, taps),)),
            loss_sim=self.beta * loss_sim,
        )

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`."""
        return (*layers_of(self), self.shape)

    def init_weights(self) -> None:
        """Draw the convolution afresh; the head follows its own config."""
        super().init_weights()
        reset_weights(self.conv)


def similarity(z: Tensor) -> Tensor:
    """Cosine similarities (n, n) of n samples after centring each over its features, clamped to -1 .. 1.

    Args:
        z: (n, features), or maps (n, C, H, W), which are first reduced to the standard deviation of every channel if
            they have more than 3 channels and more than one row.
    """
    if z.dim() == 4 and z.shape[1] > 3 and z.shape[2] > 1:
        # epsilon inside the root: a constant channel would have an infinite gradient
        z = (z.flatten(2).var(dim=2) + 1e-12).sqrt()
    z = z.flatten(1)
    z = F.normalize(z - z.mean(dim=1, keepdim=True), dim=1, eps=1e-8)
    return (z @ z.T).clamp(-1, 1)


def pooling_kernel(shape: tuple[int, int, int], max_features: int) -> tuple[int, int]:
    """Double the height and the width of the kernel in turns until (C, H, W) has at most `max_features`.

    Raises:
        ValueError: If even one pixel has more.
    """
    channels, height, width = shape
    if channels > max_features:
        raise ValueError(f'auxiliary.max_features={max_features} is less than the {channels} channels of a module.')
    kernel = [1, 1]
    turn = 0
    while channels * -(-height // kernel[0]) * -(-width // kernel[1]) > max_features:
        kernel[turn] *= 2
        turn = 1 - turn
    return kernel[0], kernel[1]
