"""Full-resolution masks of detections: from the label map, from the mask head, or from both."""

import math

import torch
from detectron2.layers import paste_masks_in_image
from torch import Tensor

from ..masks import resample, row_chunks, upsample_soft_masks

SOURCES = ("label_map", "head", "fused")


def final_masks(
    soft_masks: Tensor,
    mask_probs: Tensor,
    boxes: Tensor,
    *,
    source: str,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """
    Args:
        soft_masks: float (K, h, w) in [0, 1], soft memberships on the label map's grid.
        mask_probs: float (K, M, M) in [0, 1], the mask head's output inside the boxes.
        boxes: float (K, 4), x0, y0, x1, y1 in pixels of the network's input.
        source: "label_map", "head", or "fused", the mean of the two.
        stride: of the label map, in pixels of the network's input.
        image_size: (H, W) of the network's input, without padding.
        output_size: (Ho, Wo).

    Returns:
        bool (K, Ho, Wo).

    Raises:
        ValueError: for an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"MODEL.DVIS_ROI_HEADS.MASK_SOURCE is {source!r}; it must be one of {SOURCES}")
    if source == "label_map":
        return upsample_soft_masks(soft_masks, stride=stride, image_size=image_size, output_size=output_size)
    scale_y, scale_x = output_size[0] / image_size[0], output_size[1] / image_size[1]
    boxes = boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    if source == "head":
        return paste_masks_in_image(mask_probs, boxes, output_size, threshold=0.5).bool()
    return _fuse(soft_masks, mask_probs, boxes, (stride * scale_y, stride * scale_x), output_size)


def _fuse(
    soft_masks: Tensor, mask_probs: Tensor, boxes: Tensor, cell: tuple[float, float], output_size: tuple[int, int]
) -> Tensor:
    """Masks where the mean of membership and mask probability is at least 1/2, inside the boxes (output pixels)."""
    height, width = output_size
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    for mask, soft, probs, (x0, y0, x1, y1) in zip(masks, soft_masks, mask_probs, boxes.tolist(), strict=True):
        if x1 <= x0 or y1 <= y0:
            continue
        scale = (y1 - y0) / probs.shape[0], (x1 - x0) / probs.shape[1]
        crop = max(math.floor(x0), 0), max(math.floor(y0), 0), min(math.ceil(x1), width), min(math.ceil(y1), height)
        for part in row_chunks(crop):
            left, top, right, bottom = part
            mean = (resample(soft, part, cell) + resample(probs, part, scale, (y0, x0))) / 2
            mask[top:bottom, left:right] = mean >= 0.5
    return masks
