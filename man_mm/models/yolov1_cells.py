"""Arithmetic of YOLOv1's cells: which one finds an object, by which of its boxes, and where these lie in the image."""

from math import prod
from typing import Any

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps, get_box_tensor
from torch import Tensor

__all__ = ['cell_targets', 'relative_boxes', 'responsible_boxes', 'xy']


def cell_targets(gts: Any, metas: Any, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Index of each object's cell in the batch (M,), its box as that cell predicts it (M, 4), its class (M,)."""
    boxes = torch.cat([get_box_tensor(gt.bboxes) for gt in gts]).float()
    boxes = boxes / xy(metas[0]['batch_input_shape'], boxes).repeat(2)
    labels = torch.cat([gt.labels for gt in gts])
    image = torch.cat([torch.full_like(gt.labels, i) for i, gt in enumerate(gts)])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * xy(grid, boxes)
    corner = centre.floor().clamp(min=0).minimum(xy(grid, boxes) - 1)  # one on the image's edge: in the last cell
    col, row = corner.long().unbind(1)
    cell = (image * grid[0] + row) * grid[1] + col
    order = torch.arange(len(cell), device=cell.device)
    first = order.new_full((len(gts) * prod(grid),), len(cell)).scatter_reduce(0, cell, order, 'amin')
    # one object a cell: the first, as in darknet, which shuffles them; as indices, a device is waited for once
    keep = (first[cell] == order).nonzero().squeeze(1)
    target = torch.cat([centre - corner, (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).sqrt()], 1)
    return cell[keep], target[keep], labels[keep]


def responsible_boxes(predicted: Tensor, target: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which of the boxes (M, B, 4) finds its cell's object (M, 4), and their IoU, both (M,).

    Where none overlaps with it, the nearest by root mean square distance does, as in darknet's detection_layer.c.
    """
    ours, theirs = relative_boxes(predicted, grid), relative_boxes(target[:, None], grid)
    iou = bbox_overlaps(bbox_cxcywh_to_xyxy(ours), bbox_cxcywh_to_xyxy(theirs), eps=1e-12).squeeze(2)
    nearest = (ours - theirs).square().sum(2).argmin(1)
    best = torch.where(iou.amax(1) > 0, iou.argmax(1), nearest)
    return best, iou.gather(1, best[:, None]).squeeze(1)


def relative_boxes(boxes: Tensor, grid: tuple[int, int], corner: Tensor | int = 0) -> Tensor:
    """(x, y, sqrt w, sqrt h) of cells with this corner as (cx, cy, w, h), parts of the image. IoU is the same so."""
    return torch.cat([(boxes[..., :2] + corner) / xy(grid, boxes), boxes[..., 2:].square()], -1)


def xy(shape: tuple[int, int], like: Tensor) -> Tensor:
    """(width, height) of a shape (height, width)."""
    return like.new_tensor([shape[1], shape[0]])
