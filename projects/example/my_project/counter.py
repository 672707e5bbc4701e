"""A model of your own, of no library that man_mm knows, and its readout."""

from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from man_mm.readout import Readout, register_readout

__all__ = ['Counter', 'CounterReadout']


@MODELS.register_module()
class Counter(BaseModel):
    """Tells how many objects an image shows.

    Args:
        backbone: Config of the backbone; its last map is read.
        channels: Width of that map.
        data_preprocessor: As MMDetection's.
    """

    def __init__(self, backbone: dict, channels: int, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(channels, 1)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Vectors (N, channels) for images (N, 3, H, W)."""
        return self.backbone(inputs)[-1].mean((2, 3))

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Squared error of the counts."""
        counts = torch.tensor([len(sample.gt_instances) for sample in data_samples]).to(inputs)
        return dict(loss_count=F.mse_loss(self.head(self.extract_feat(inputs)).squeeze(1), counts))

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """As MMEngine asks for it."""
        return self.loss(inputs, data_samples) if mode == 'loss' else self.head(self.extract_feat(inputs))


@register_readout('my_project.counter.Counter')
class CounterReadout(Readout):
    """`Counter.loss` calls `extract_feat` once, as `man_mm.readout.HostTask` takes for granted."""
