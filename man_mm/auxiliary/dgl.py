"""DGL, decoupled greedy learning (Belilovsky et al., ICML 2020): an MLP on the pooled output of the module."""

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import count, strict_keys, switch
from ..local import Activation, Site, layers_of
from ..registry import MODELS
from .classifier import ClassifierAuxiliary
from .layers import conv_norm_relu, reset_weights

__all__ = ['DGL']


@MODELS.register_module()
@strict_keys
class DGL(ClassifierAuxiliary):
    """Pool to a quarter of the size, three 1x1 convolutions, pool to 2x2, hidden layers of width 4C, classifier.

    The defaults are the network of AugLocal's comparison (Ma et al., ICLR 2024), which is probably the one after the
    paper's Table 1; `num_hidden=3, hidden_bias=True` is the original one ("mlp-sr").

    Args:
        num_hidden: Fully connected layers before the classifier.
        hidden_bias: Whether they have a bias.
        kwargs: See `ClassifierAuxiliary`.
    """

    least_images = 2

    def __init__(self, site: Site, num_hidden: int = 2, hidden_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(site, **kwargs)
        count('auxiliary.num_hidden', num_hidden, least=0)
        channels = site.map_shape()[0]
        width = self.num_features = 4 * channels
        self.convs = nn.Sequential(*(conv_norm_relu(channels, channels, 1) for _ in range(3)))
        hidden_bias = switch('auxiliary.hidden_bias', hidden_bias)
        self.hidden = nn.Sequential()
        for _ in range(num_hidden):
            self.hidden.append(nn.Linear(width, width, bias=hidden_bias))
            self.hidden.append(nn.BatchNorm1d(width))
            self.hidden.append(nn.ReLU(inplace=True))

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Tensor:
        """See `ClassifierAuxiliary.forward`."""
        assert isinstance(x, Tensor)
        self.refuse_single_image(x)
        height, width = x.shape[2:]
        maps = self.convs(F.adaptive_avg_pool2d(x, (-(-height // 4), -(-width // 4))))
        return self.hidden(F.adaptive_avg_pool2d(maps, 2).flatten(1))

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`."""
        return layers_of(self)

    def init_weights(self) -> None:
        """Draw all layers afresh; the head follows its own config."""
        super().init_weights()
        reset_weights(self.convs)
        reset_weights(self.hidden)
