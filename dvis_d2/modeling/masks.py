"""Masks: IoU, suppression of duplicates, and full resolution without ever interpolating labels.

Between labels 0 and 5 lie 1, 2, 3 and 4, so a label map must not be interpolated before it is discretized. Each
instance's soft membership may be: it is enlarged on its own, bilinearly, and cut at 1/2.

Shapes: K masks, (h, w) the label map's grid, (H, W) the image, (Ho, Wo) the output. Cell (i, j) of the grid covers the
image's pixels [i * stride, (i + 1) * stride) x [j * stride, (j + 1) * stride).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .options import check_range

_CHUNK = 1 << 22  # pixels that one step works on at a time: 16 MiB of float32 for each temporary
MATRIX_NMS_SIGMA = 0.5  # of the Gaussian kernel exp(-IoU^2 / sigma), SOLOv2's


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes float32 (K, 4), x0, y0, x1, y1 with exclusive ends, of masks bool (K, h, w); zeros for empty ones.

    `BitMasks.get_bounding_boxes` waits for the device several times a mask.
    """
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    low = [side.int().argmax(dim=1) for side in (columns, rows)]
    high = [side.shape[1] - side.flip(1).int().argmax(dim=1) for side in (columns, rows)]
    return torch.stack(low + high, dim=1).float() * rows.any(dim=1, keepdim=True)


def mask_iou(masks_a: Tensor, masks_b: Tensor) -> Tensor:
    """IoU float32 (A, B) of masks bool (A, h, w) and (B, h, w), else ValueError; 0 where both are empty.

    Temporaries stay below 2 * _CHUNK float32 numbers plus the (A, B) counts, which are exact up to 2**24 pixels.
    """
    if masks_a.shape[1:] != masks_b.shape[1:]:
        raise ValueError(f"masks differ in size: {tuple(masks_a.shape[1:])} and {tuple(masks_b.shape[1:])}")
    flat_a, flat_b = masks_a.flatten(1), masks_b.flatten(1)
    inter = torch.zeros(len(flat_a), len(flat_b), device=masks_a.device)
    area_a, area_b = inter.new_zeros(len(flat_a), 1), inter.new_zeros(1, len(flat_b))
    step = max(1, _CHUNK // max(1, len(flat_a), len(flat_b)))
    for start in range(0, flat_a.shape[1], step):
        a, b = flat_a[:, start : start + step].float(), flat_b[:, start : start + step].float()
        inter += a @ b.T
        area_a += a.sum(1, keepdim=True)
        area_b += b.sum(1)
    return inter / (area_a + area_b - inter).clamp_min(1)


def mask_nms(masks: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None) -> Tensor:
    """Greedy suppression of masks bool (K, h, w) whose IoU with a better kept mask exceeds `threshold`, or is 1.

    `scores` float (K,): of equal ones the first wins. `classes` int64 (K,): masks of different classes do not suppress
    each other; None: they do. Returns int64 (number kept,), indices in descending order of score. ValueError for a
    threshold outside [0, 1].
    """
    check_range(0, 1, nms_threshold=threshold)
    order, iou = _iou_by_rank(masks, scores, classes)
    pairs = ((iou > threshold) | (iou == 1)).nonzero().tolist()  # ascending, so a row is settled before it suppresses
    return order[torch.tensor(surviving(len(order), pairs), dtype=torch.int64, device=order.device)]


def matrix_nms(masks: Tensor, scores: Tensor, classes: Tensor | None = None) -> Tensor:
    """SOLOv2's matrix NMS (Wang et al. 2020, section 3.3): every score is lowered by the better mask that overlaps it
    most, less so if that one is itself a duplicate:

        score_j * min over better i of f(IoU_ij) / f(max over k better than i of IoU_ki), f(x) = exp(-x^2 / sigma)

    Arguments as for `mask_nms`, scores finite. Returns float (K,) in the order given; none is greater than before.
    """
    if not len(scores):
        return scores
    order, iou = _iou_by_rank(masks, scores, classes)
    squared = iou.square()
    itself = squared.amax(dim=0)
    # rows that are not better hold 0, so their ratio is at least 1, and the best row's at most 1
    decay = torch.exp((itself[:, None] - squared) / MATRIX_NMS_SIGMA).amin(dim=0)
    return scores * torch.empty_like(decay).index_copy_(0, order, decay).to(scores.dtype)


def _iou_by_rank(masks: Tensor, scores: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The order by descending score, and the IoU of the masks in it, (K, K): row i with every worse column j of its
    class, 0 elsewhere."""
    order = torch.argsort(scores, descending=True, stable=True)
    masks = masks[order]
    iou = mask_iou(masks, masks)
    if classes is not None:
        iou = iou * (classes[order, None] == classes[None, order])
    return order, iou.triu(diagonal=1)


def surviving(count: int, pairs: list[list[int]]) -> list[int]:
    """Greedy suppression: items 0..count-1 by rank; pairs (i, j), i < j, sorted: "i suppresses j"."""
    suppressed = bytearray(count)
    for i, j in pairs:
        if not suppressed[i]:
            suppressed[j] = 1
    return [i for i in range(count) if not suppressed[i]]


def upsample_soft_masks(
    soft: Tensor, *, stride: float, image_size: tuple[int, int], output_size: tuple[int, int] | None = None
) -> Tensor:
    """Full-resolution masks bool (K, Ho, Wo): where soft memberships, each interpolated inside its own box, reach 1/2.

    `soft`, float (K, h, w) in [0, 1], is zero outside the instance. Its grid, of `stride` image pixels a cell, may
    extend beyond the image (padding) or end before it (the last cell's value goes on). The network's input, (H, W)
    without padding, is scaled to `output_size`, (Ho, Wo).
    """
    output_size = output_size or image_size
    scale = [stride * out / size for out, size in zip(output_size, image_size, strict=True)]  # output pixels a cell
    result = torch.zeros((len(soft), *output_size), dtype=torch.bool, device=soft.device)
    boxes = mask_boxes(soft > 0).int()
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if x1 <= x0:
            continue
        top, bottom = _output_range(y0, y1, soft.shape[1], scale[0], output_size[0])
        left, right = _output_range(x0, x1, soft.shape[2], scale[1], output_size[1])
        columns = _normalized(left, right, soft.shape[2], scale[1], soft.device)
        step = max(1, _CHUNK // max(1, right - left))
        for start in range(top, bottom, step):
            end = min(start + step, bottom)
            rows = _normalized(start, end, soft.shape[1], scale[0], soft.device)
            points = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=2)
            values = F.grid_sample(
                soft[None, k, None].float(), points[None], padding_mode="border", align_corners=False
            )
            result[k, start:end, left:right] = values[0, 0] >= 0.5
    return result


def _output_range(start: int, end: int, cells: int, scale: float, size: int) -> tuple[int, int]:
    """Output pixels [low, high) whose interpolation reaches cells [start, end); `scale` pixels a cell."""
    low = max(math.floor((start - 0.5) * scale - 0.5), 0)
    high = size if end == cells else min(math.ceil((end + 0.5) * scale + 0.5), size)
    return low, max(low, high)


def _normalized(start: int, end: int, cells: int, scale: float, device: torch.device) -> Tensor:
    """Centers of output pixels [start, end) in the coordinates of `grid_sample`: -1 to 1 over the cells."""
    pixel = torch.arange(start, end, dtype=torch.float64)
    return ((pixel + 0.5) / (scale * cells) * 2 - 1).float().to(device)
