"""What the mask head and, with it, the IoU head are trained on. K proposals, (H, W) the image in pixels."""

import torch
from detectron2.layers import ROIAlign, cat
from detectron2.structures import BitMasks, Instances
from torch import Tensor


def mask_targets(
    proposals: list[Instances], boxes: list[Tensor], targets: list[Instances], *, size: int
) -> tuple[Tensor, Tensor]:
    """The instances that a batch's proposals belong to.

    Args:
        proposals: of every image, with ``gt_index``. boxes: float (K, 4) of every image, in pixels.
        targets: ground truth of every image, with ``gt_masks`` (BitMasks).

    Returns:
        float (R, size, size), see :func:`crop_masks`, and int64 (R,), areas of the whole instances in pixels.
    """
    crops, areas = [], []
    for props, box, target in zip(proposals, boxes, targets, strict=True):
        crops.append(crop_masks(target.gt_masks, props.gt_index, box, size))
        areas.append(target.gt_masks.tensor.sum(dim=(1, 2))[props.gt_index])
    return cat(crops), cat(areas)


def crop_masks(masks: BitMasks, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Ground truth inside boxes, without a full-size copy a box.

    Args:
        masks: of the n instances of one image.
        index: int64 (K,), the instance of each box. boxes: float (K, 4), x0, y0, x1, y1 in pixels.

    Returns:
        float (K, size, size), 0 or 1: where instance ``index[k]`` covers at least half of a cell of ``boxes[k]``.
    """
    align = ROIAlign((size, size), 1.0, sampling_ratio=0, aligned=True)
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    return (align(masks.tensor[:, None].to(boxes.dtype), rois)[:, 0] >= 0.5).to(boxes.dtype)


@torch.no_grad()
def refined_iou(mask_logits: Tensor, gt_crops: Tensor, boxes: Tensor, gt_areas: Tensor) -> Tensor:
    """IoU of the mask head's own masks with the instances, those parts of them that lie outside the boxes included.

    Args:
        mask_logits: float (K, M, M); the mask is where they are at least 0.
        gt_crops: float (K, M, M), 0 or 1, of :func:`crop_masks`.
        boxes: float (K, 4), x0, y0, x1, y1 in pixels.
        gt_areas: (K,), pixels of the whole instances.

    Returns:
        float (K,) in [0, 1], without a gradient.
    """
    predicted, truth = mask_logits >= 0, gt_crops > 0
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    cell = (x1 - x0) * (y1 - y0) / mask_logits.shape[-1] ** 2

    def area(cells: Tensor) -> Tensor:
        return cells.sum(dim=(1, 2)) * cell

    outside = (gt_areas - area(truth)).clamp_min(0)
    return area(predicted & truth) / (area(predicted | truth) + outside).clamp_min(1e-6)
