"""The head of YOLOv1 (Redmon et al., "You Only Look Once", CVPR 2016): a grid of cells that each find one object."""

from collections.abc import Sequence
from math import inf, prod
from typing import Any, TypeAlias

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import filter_scores_and_topk
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import count, is_count, strict_keys
from .yolov1_cells import cell_targets, relative_boxes, responsible_boxes, xy

__all__ = ['YOLOV1Head']

Maps: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Class probabilities (N, H, W, C), boxes (N, H, W, B, 4) and confidences (N, H, W, B) of H x W cells."""

# Boxes start in the middle of their range, a quarter of the image wide and high. From zero they would start as points
# on the cells' corners, and the IoU that the confidence learns would be zero everywhere.
BIASES = dict(cls_pred=0.0, box_pred=0.5, conf_pred=0.0)
STARTS = [dict(type='Normal', std=0.01, bias=bias, name=name) for name, bias in BIASES.items()]
KAIMING = dict(type='Kaiming', a=0.1, mode='fan_in', nonlinearity='leaky_relu', layer=['Conv2d', 'Linear'])


@strict_keys
class YOLOV1Head(BaseDenseHead):
    """Each cell predicts B boxes (x, y, sqrt w, sqrt h) with a confidence each, and C class probabilities, all linear.

    x, y count cells from the cell's corner; w, h are parts of the padded batch image. The cell that holds an object's
    centre finds it; of several in one cell, the first annotated. Ignored annotations count as background.

    Args:
        num_classes: C.
        in_channels: Channels of the last feature map given, the only one that is read.
        grid_size: S, where every image must give S x S cells; None takes the grid that the feature map gives.
        num_boxes: B.
        conv_channels: Channels of the 3x3 convolutions in front of the prediction.
        conv_strides: Their strides, one each; empty for none of them.
        fc_channels: None predicts by 1x1 convolutions. An int, 4096 in the paper, predicts by two fully connected
            layers with so many units between them; it needs `grid_size`.
        norm_cfg: Config of the norm after each 3x3 convolution; the paper has none.
        lambda_coord: Weight of the boxes' errors in Eq. 3.
        lambda_noobj: Weight of the confidence of boxes that find nothing in Eq. 3.
        train_cfg: Not read; detectors give it.
        test_cfg: `score_thr`, `nms_pre`, `nms`, `max_per_img`, as upstream's heads read them.
        init_cfg: See MMEngine.

    Raises:
        ValueError: If an argument, or in `forward` the feature map, is not as above.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        grid_size: int | None = None,
        num_boxes: int = 2,
        conv_channels: int = 1024,
        conv_strides: Sequence[int] = (1, 2, 1, 1),
        fc_channels: int | None = None,
        norm_cfg: dict[str, Any] | None = None,
        lambda_coord: float = 5.0,
        lambda_noobj: float = 0.5,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        _check_counts(
            num_classes=num_classes, in_channels=in_channels, num_boxes=num_boxes, conv_channels=conv_channels
        )
        optional = dict(grid_size=grid_size, fc_channels=fc_channels)
        _check_counts(**{key: value for key, value in optional.items() if value is not None})
        _check_weights(lambda_coord=lambda_coord, lambda_noobj=lambda_noobj)
        if not isinstance(conv_strides, (list, tuple)) or not all(map(is_count, conv_strides)):
            raise ValueError(f'bbox_head.conv_strides={conv_strides!r} must be a list, of positive integers or empty.')
        if fc_channels is not None and grid_size is None:
            raise ValueError(f'bbox_head.fc_channels={fc_channels} needs bbox_head.grid_size: a positive integer.')
        super().__init__(init_cfg=init_cfg or {**KAIMING, 'override': STARTS})
        self.num_classes, self.in_channels, self.num_boxes = num_classes, in_channels, num_boxes
        self.grid_size, self.conv_strides = grid_size, tuple(conv_strides)
        self.lambda_coord, self.lambda_noobj = lambda_coord, lambda_noobj
        self.train_cfg, self.test_cfg = train_cfg, test_cfg
        self._build(conv_channels, fc_channels, norm_cfg)

    def _build(self, conv_channels: int, fc_channels: int | None, norm_cfg: dict[str, Any] | None) -> None:
        width, act_cfg = self.in_channels, dict(type='LeakyReLU', negative_slope=0.1)
        self.convs, self.fc = nn.Sequential(), nn.Sequential()
        for stride in self.conv_strides:
            self.convs.append(ConvModule(width, conv_channels, 3, stride, 1, norm_cfg=norm_cfg, act_cfg=act_cfg))
            width = conv_channels
        outputs = (self.num_classes, 4 * self.num_boxes, self.num_boxes)
        if fc_channels is None:
            layers = [nn.Conv2d(width, channels, 1) for channels in outputs]
        else:
            cells = self.grid_size**2
            first = nn.Linear(width * cells, fc_channels)
            self.fc.extend([nn.Flatten(), first, nn.LeakyReLU(0.1, inplace=True), nn.Dropout()])
            layers = [nn.Linear(fc_channels, channels * cells) for channels in outputs]
        self.cls_pred, self.box_pred, self.conf_pred = layers  # the paper's one layer, in parts that may start apart

    def forward(self, x: Sequence[Tensor]) -> tuple[Maps]:
        """Return the predictions for feature maps (N, in_channels, H, W), of which the last is read."""
        if x[-1].shape[1] != self.in_channels:
            raise ValueError(f'bbox_head.in_channels={self.in_channels} must be {x[-1].shape[1]}, as the last map has.')
        x = self.convs(x[-1])
        num, _, *grid = x.shape
        self._check_grid(*grid)
        x = self.fc(x)
        layers = (self.cls_pred, self.box_pred, self.conf_pred)
        cls, box, conf = (layer(x).reshape(num, -1, *grid).movedim(1, 3) for layer in layers)
        return ((cls, box.unflatten(3, (self.num_boxes, 4)), conf),)

    def _check_grid(self, rows: int, cols: int) -> None:
        size = self.grid_size
        if size in (None, rows) and size in (None, cols):
            return
        instead = f', or bbox_head.grid_size={rows}' if rows == cols else ''
        raise ValueError(
            f'bbox_head.grid_size={size} does not fit the images: with padding, they give {rows} x {cols} cells '
            f'(height x width). Right are images {size / rows:.3g} times as high and {size / cols:.3g} times as wide '
            f'({32 * prod(self.conv_strides) * size} px after a backbone of stride 32){instead}.'
        )

    def loss_by_feat(self, maps: Maps, batch_gt_instances: Any, batch_img_metas: Any, *_: Any) -> dict[str, Tensor]:
        """Return the parts of the paper's Eq. 3, each summed over the cells, the mean over the images."""
        grid = maps[0].shape[1:3]
        cls, box, conf = (part.float().flatten(0, 2) for part in maps)  # squares and sums overflow half precision
        cell, target, labels = self.get_targets(batch_gt_instances, batch_img_metas, grid)
        best, iou = responsible_boxes(box[cell].detach(), target, grid)
        error = (box[cell, best] - target).square()
        no_object = torch.ones_like(conf)
        no_object[cell, best] = 0
        losses = dict(
            loss_xy=self.lambda_coord * error[:, :2].sum(),
            loss_wh=self.lambda_coord * error[:, 2:].sum(),
            loss_conf=(conf[cell, best] - iou).square().sum(),
            loss_noobj=self.lambda_noobj * (no_object * conf.square()).sum(),
            loss_cls=(cls[cell] - F.one_hot(labels, self.num_classes)).square().sum(),
        )
        return {name: loss / len(batch_img_metas) for name, loss in losses.items()}

    def get_targets(
        self, batch_gt_instances: Any, batch_img_metas: Any, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `cell_targets`. By this name, as upstream's heads have it, modules share their targets."""
        return cell_targets(batch_gt_instances, batch_img_metas, grid)

    def predict_by_feat(
        self, maps: Maps, batch_img_metas: Any, cfg: Any = None, rescale: bool = False, with_nms: bool = True
    ) -> list[InstanceData]:
        """Return each image's boxes, with a score per class: confidence times class probability."""
        cfg = ConfigDict(self.test_cfg if cfg is None else cfg)
        cls, box, conf = (part.detach().float() for part in maps)
        rows, cols = grid = cls.shape[1:3]
        corner = torch.stack(torch.meshgrid(torch.arange(cols), torch.arange(rows), indexing='xy'), -1).to(box)
        boxes = bbox_cxcywh_to_xyxy(relative_boxes(box, grid, corner[:, :, None])).flatten(1, 3)
        scores = conf.clamp(min=0)[..., None] * cls[..., None, :]  # two negative ones make no score
        results = []
        for image_boxes, image_scores, meta in zip(boxes, scores.flatten(1, 3), batch_img_metas, strict=True):
            limit = cfg.get('nms_pre', -1)
            limit = limit if limit > 0 else image_scores.numel()  # upstream's helper takes -1 for all but one
            found, labels, keep, _ = filter_scores_and_topk(image_scores, cfg.get('score_thr', 0), limit)
            kept = image_boxes[keep] * xy(meta['batch_input_shape'], box).repeat(2)
            kept = kept.clamp(min=0).minimum(xy(meta['img_shape'], box).repeat(2))
            result = InstanceData(bboxes=kept, scores=found, labels=labels)
            results.append(self._bbox_post_process(result, cfg, rescale, with_nms, meta))
        return results


def _check_counts(**values: Any) -> None:
    for key, value in values.items():
        count(f'bbox_head.{key}', value)


def _check_weights(**values: Any) -> None:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf:
            raise ValueError(f'bbox_head.{key}={value!r} must be a number, zero or more.')
