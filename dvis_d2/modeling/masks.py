"""Masks: boxes, IoU, suppression, and full resolution without ever interpolating labels.

Between labels 0 and 5 lie 1, 2, 3 and 4, so a label map must not be interpolated before it is discretised.
Each instance's soft membership may be: it is enlarged on its own, bilinearly, and cut at a threshold.

Shapes: K masks, (h, w) the label map's grid, (H, W) the image, (Ho, Wo) the output. Cell (i, j) of the grid
covers the image's pixels [i * stride, (i + 1) * stride) x [j * stride, (j + 1) * stride).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

__all__ = [
    "encode_soft_masks",
    "iter_soft_mask_crops",
    "mask_iou",
    "mask_nms",
    "masks_to_boxes",
    "resample",
    "row_chunks",
    "upsample_soft_masks",
]

# Pixels that one step works on at a time: 16 MiB of float32 for each temporary.
_CHUNK = 1 << 22


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks bool (K, h, w): int64 (K, 4) as x0, y0, x1, y1 in cells, the end exclusive.

    An empty mask has the box 0, 0, 0, 0. (torchvision's function of this name ends inclusively and rejects
    empty masks.)
    """
    sides = []
    for others in (1, 2):  # columns, then rows
        hit = masks.any(dim=others)
        size = hit.shape[1]
        index = torch.arange(size, device=masks.device)
        start = torch.where(hit, index, size).amin(1) if size else hit.new_zeros(len(hit), dtype=torch.int64)
        end = torch.where(hit, index + 1, 0).amax(1) if size else torch.zeros_like(start)
        sides.append((torch.minimum(start, end), end))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1)


def mask_iou(masks_a: Tensor, masks_b: Tensor, ignore: Tensor | None = None) -> Tensor:
    """IoU float32 (A, B) of masks bool (A, h, w) and (B, h, w); 0 where both are empty.

    Pixels in `ignore` bool (h, w) count for neither mask. Temporaries stay below 2 * _CHUNK float32 numbers
    plus the (A, B) counts, which are exact up to 2**24 pixels.

    Raises:
        ValueError: the masks are not of one size.
    """
    if masks_a.shape[1:] != masks_b.shape[1:]:
        raise ValueError(f"masks differ in size: {tuple(masks_a.shape[1:])} and {tuple(masks_b.shape[1:])}")
    flat_a, flat_b = masks_a.flatten(1), masks_b.flatten(1)
    inter = torch.zeros(len(flat_a), len(flat_b), device=masks_a.device)
    area_a, area_b = inter.new_zeros(len(flat_a), 1), inter.new_zeros(1, len(flat_b))
    step = max(1, _CHUNK // max(1, len(flat_a), len(flat_b)))
    for start in range(0, flat_a.shape[1], step):
        a, b = flat_a[:, start : start + step].float(), flat_b[:, start : start + step].float()
        if ignore is not None:
            counted = ~ignore.flatten()[start : start + step]
            a, b = a * counted, b * counted
        inter += a @ b.T
        area_a += a.sum(1, keepdim=True)
        area_b += b.sum(1)
    return inter / (area_a + area_b - inter).clamp_min(1)


def mask_nms(masks: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None) -> Tensor:
    """Greedy suppression of masks bool (K, h, w) whose IoU with a better kept mask exceeds `threshold`.

    Args:
        scores: float (K,); of equal scores the first wins.
        classes: int64 (K,): masks of different classes do not suppress each other. None: they do.

    Returns:
        int64 (number kept,), indices in descending order of score.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    masks = masks[order]
    overlap = mask_iou(masks, masks) > threshold
    if classes is not None:
        overlap &= classes[order, None] == classes[None, order]
    pairs = overlap.triu(diagonal=1).nonzero().tolist()  # ascending, so a row is settled before it suppresses
    return order[torch.tensor(surviving(len(order), pairs), dtype=torch.int64, device=order.device)]


def surviving(count: int, pairs: list[list[int]]) -> list[int]:
    """Greedy suppression: items 0..count-1 by rank; pairs (i, j), i < j, sorted: "i suppresses j"."""
    suppressed = bytearray(count)
    for i, j in pairs:
        if not suppressed[i]:
            suppressed[j] = 1
    return [i for i in range(count) if not suppressed[i]]


def upsample_soft_masks(
    soft: Tensor,
    *,
    stride: float,
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    threshold: float = 0.5,
) -> Tensor:
    """Full-resolution masks, bool (K, Ho, Wo), from soft memberships; see `iter_soft_mask_crops`.

    Holds the result, K * Ho * Wo bytes, and the temporaries of one crop. Where the result is too large (100
    masks of 4000 x 3000 pixels are 1.2 GB) take `encode_soft_masks` or the iterator.
    """
    result = torch.zeros((len(soft), *(output_size or image_size)), dtype=torch.bool, device=soft.device)
    crops = iter_soft_mask_crops(
        soft, stride=stride, image_size=image_size, output_size=output_size, boxes=boxes, threshold=threshold
    )
    for k, (x0, y0, x1, y1), crop in crops:
        result[k, y0:y1, x0:x1] = crop
    return result


def encode_soft_masks(
    soft: Tensor,
    *,
    stride: float,
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    threshold: float = 0.5,
) -> list[dict]:
    """Full-resolution masks as K COCO run-length codes {"size": [Ho, Wo], "counts": bytes} (pycocotools).

    Memory beside the codes: two masks of Ho x Wo bytes on the host and the temporaries of one crop, whatever
    K is.
    """
    height, width = output_size or image_size
    canvas = np.zeros((height, width), dtype=np.uint8, order="F")
    codes: list[dict] = [coco_mask.encode(canvas)] * len(soft)
    crops = iter_soft_mask_crops(
        soft, stride=stride, image_size=image_size, output_size=output_size, boxes=boxes, threshold=threshold
    )
    for k, (x0, y0, x1, y1), crop in crops:
        canvas[y0:y1, x0:x1] = crop.cpu().numpy()
        codes[k] = coco_mask.encode(canvas)
        canvas[y0:y1, x0:x1] = 0
    return codes


def iter_soft_mask_crops(
    soft: Tensor,
    *,
    stride: float,
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
    boxes: Tensor | None = None,
    threshold: float = 0.5,
) -> Iterator[tuple[int, tuple[int, int, int, int], Tensor]]:
    """One crop of the full-resolution mask for each instance that has one, in order.

    Args:
        soft: float (K, h, w) in [0, 1]; zero outside the instance. The grid may extend beyond the image
            (padding) or end before it (the last cell's value goes on).
        stride: image pixels a cell, the same in both directions.
        image_size: (H, W) of the image as the network saw it, without padding.
        output_size: (Ho, Wo) to which the image is scaled; None: `image_size`.
        boxes: int (K, 4), x0, y0, x1, y1 in cells, end exclusive, outside which `soft` is zero; None: found
            here.
        threshold: in (0, 1]; a pixel belongs to the mask where the interpolated membership is at least this.

    Yields:
        k, the crop's box (x0, y0, x1, y1) in output pixels, end exclusive, and the mask bool (y1 - y0, x1 -
        x0). Outside the box the mask is empty. An instance without any membership, or wholly in the padding,
        is left out.

    Beside the crop, temporaries stay below about 100 MiB for any output size.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    output_size = output_size or image_size
    if boxes is None:
        boxes = masks_to_boxes(soft > 0)
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if x1 <= x0 or y1 <= y0:
            continue
        top, bottom = _output_range(y0, y1, soft.shape[1], stride * output_size[0] / image_size[0], output_size[0])
        left, right = _output_range(x0, x1, soft.shape[2], stride * output_size[1] / image_size[1], output_size[1])
        if bottom <= top or right <= left:
            continue
        yield (
            k,
            (left, top, right, bottom),
            _upsample_crop(
                soft[k].float(),
                (left, top, right, bottom),
                (stride * output_size[0] / image_size[0], stride * output_size[1] / image_size[1]),
                threshold,
            ),
        )


def _output_range(start: int, end: int, cells: int, scale: float, size: int) -> tuple[int, int]:
    """Output pixels [low, high) whose interpolation reaches cells [start, end); `scale` pixels a cell."""
    low = math.floor((start - 0.5) * scale - 0.5)
    high = size if end == cells else math.ceil((end + 0.5) * scale + 0.5)
    return max(low, 0), min(high, size)


def _upsample_crop(
    soft: Tensor, box: tuple[int, int, int, int], scale: tuple[float, float], threshold: float
) -> Tensor:
    return torch.cat([resample(soft, part, scale) >= threshold for part in row_chunks(box)])


def row_chunks(box: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The box x0, y0, x1, y1 cut into boxes of full rows, each small enough for one step."""
    x0, y0, x1, y1 = box
    step = max(1, _CHUNK // (x1 - x0))
    for top in range(y0, y1, step):
        yield x0, top, x1, min(top + step, y1)


def resample(
    grid: Tensor,
    box: tuple[int, int, int, int],
    scale: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Bilinear values of a grid float (h, w) at the pixels of a box, float32 (y1 - y0, x1 - x0).

    Args:
        box: x0, y0, x1, y1 in output pixels, end exclusive.
        scale: output pixels a cell, vertically and horizontally.
        origin: y, x of the grid's upper left corner, in output pixels. Beyond its border the grid goes on as there.
    """
    x0, y0, x1, y1 = box
    rows, next_rows, row_weights = _taps(y0, y1, grid.shape[0], scale[0], origin[0], grid.device)
    columns, next_columns, column_weights = _taps(x0, x1, grid.shape[1], scale[1], origin[1], grid.device)
    # Down first: the intermediate is still as narrow as the grid.
    tall = torch.lerp(grid[rows], grid[next_rows], row_weights[:, None])
    return torch.lerp(tall[:, columns], tall[:, next_columns], column_weights)


def _taps(
    start: int, end: int, cells: int, scale: float, origin: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells that each output pixel of [start, end) lies between, and the weight of the second."""
    pixel = torch.arange(start, end, dtype=torch.float64, device=device)
    position = ((pixel + 0.5 - origin) / scale - 0.5).clamp(0, cells - 1)
    first = position.floor()
    return first.long(), (first + 1).clamp_max(cells - 1).long(), (position - first).float()
