"""Layers that auxiliaries are made of, and the weights that they start from."""

from mmengine.model import initialize
from torch import nn

from ..local import draw_afresh

__all__ = ['conv_norm_relu', 'reset_weights']


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size (stride 1) or halves it (stride 2), batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def reset_weights(layers: nn.Module) -> None:
    """Draw fresh weights: He-normal kernels (fan-out), norms 1 and 0, all else, biases too, by torch's default."""
    draw_afresh(layers)
    for layer in layers.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
    initialize(layers, dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm', 'LayerNorm']))
