"""Masks: boxes, IoU and suppression of duplicates, of arrays and tensors alike.

Shapes: K masks, (h, w) any grid.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import floats, like, on_host, zeros
from .options import check_range

BOX_MARGIN = 0.2  # of the authors
_CHUNK = 1 << 22  # pixels that one step works on at a time: 16 MiB of float32 for each temporary
_DENSE = 16  # products of numbers that a matrix of all cells takes in the time of one pair
MATRIX_NMS_SIGMA = 0.5  # of the Gaussian kernel exp(-IoU^2 / sigma), SOLOv2's


def mask_boxes(masks: Any) -> Any:
    """Tight boxes float32 (K, 4), x0, y0, x1, y1 with exclusive ends, of masks bool (K, h, w); zeros for empty ones.

    `BitMasks.get_bounding_boxes` waits for the device several times a mask.
    """
    if hasattr(masks, "detach") and masks.device.type == "cpu":
        return like(mask_boxes(masks.numpy()), masks)  # `any` takes torch four times as long
    columns, rows = masks.any(1), masks.any(2)
    boxes = zeros((len(masks), 4), floats(columns[:0]))
    for axis, side in enumerate((columns, rows)):
        boxes[:, axis], boxes[:, axis + 2] = (side * 1).argmax(1), side.cumsum(1).argmax(1) + 1
    return boxes * rows.any(1)[:, None]


def proposal_boxes(masks: Any, stride: int, image_size: tuple[int, int]) -> tuple[Any, Any]:
    """Of masks bool (K, h, w) on a grid of `stride` pixels: tight boxes in pixels, float32 (K, 4), and the same grown
    by `BOX_MARGIN` of their size, in which the heads see them; both inside the image (height, width)."""

    def clipped(boxes: Any) -> Any:
        for axis in range(4):
            boxes[:, axis] = boxes[:, axis].clip(0, image_size[1 - axis % 2])
        return boxes

    boxes = clipped(mask_boxes(masks) * stride)
    grown, margin = boxes * 1, (boxes[:, 2:] - boxes[:, :2]) * (BOX_MARGIN / 2)
    grown[:, :2] -= margin
    grown[:, 2:] += margin
    return boxes, clipped(grown)


def mask_iou(masks_a: Any, masks_b: Any) -> Any:
    """IoU float32 (A, B) of masks bool (A, h, w) and (B, h, w), else ValueError; 0 where both are empty.

    Temporaries stay below 2 * _CHUNK float32 numbers plus the (A, B) counts, which are exact up to 2**24 pixels.
    """
    if masks_a.shape[1:] != masks_b.shape[1:]:
        raise ValueError(f"masks differ in size: {tuple(masks_a.shape[1:])} and {tuple(masks_b.shape[1:])}")
    pixels = math.prod(masks_a.shape[1:])
    flat_a, flat_b = masks_a.reshape(len(masks_a), pixels), masks_b.reshape(len(masks_b), pixels)
    inter, area_a, area_b = (zeros(shape, floats(flat_a[:0])) for shape in ((len(flat_a), len(flat_b)), (), ()))
    step = max(1, _CHUNK // max(1, len(flat_a), len(flat_b)))
    for start in range(0, pixels, step):
        a, b = floats(flat_a[:, start : start + step]), floats(flat_b[:, start : start + step])
        inter += a @ b.T
        area_a, area_b = area_a + a.sum(1)[:, None], area_b + b.sum(1)
    return inter / (area_a + area_b - inter).clip(1)


@on_host
def mask_nms(masks: Any, scores: Any, threshold: float, classes: Any = None, rows: Any = None) -> Any:
    """Greedy suppression of masks bool (K, h, w) whose IoU with a better kept mask exceeds `threshold`, or is 1.
    `masks` may also be their :func:`shared_by_masks`.

    `scores` float (K,): of equal ones the first wins. `classes` int64 (K,): masks of different classes do not suppress
    each other; None: they do. `rows` int64 (K,): which of the masks, then of any number, each is; None: in order.
    Returns int64 (number kept,), indices in descending order of score. ValueError for a threshold outside [0, 1].
    """
    check_range(0, 1, nms_threshold=threshold)
    order, first, second, iou = _overlaps_by_rank(masks, scores, classes, rows)
    alike = (iou > threshold) | (iou == 1)
    return order[surviving(len(order), np.stack([first[alike], second[alike]], 1).tolist())]


@on_host
def matrix_nms(masks: Any, scores: Any, classes: Any = None, rows: Any = None) -> Any:
    """SOLOv2's matrix NMS (Wang et al. 2020, section 3.3): every score is lowered by the better mask that overlaps it
    most, less so if that one is itself a duplicate:

        score_j * min over better i of f(IoU_ij) / f(max over k better than i of IoU_ki), f(x) = exp(-x^2 / sigma)

    Arguments as for `mask_nms`, scores finite. Returns float (K,) in the order given; none is greater than before.
    """
    order, first, second, iou = _overlaps_by_rank(masks, scores, classes, rows)
    squared, most = iou**2, np.zeros(len(scores), np.float32)
    np.maximum.at(most, second, squared)
    # pairs that do not overlap have a ratio of at least 1, and the best of all lowers none by more
    by_rank, decay = np.ones_like(scores), np.empty_like(scores)
    np.minimum.at(by_rank, second, np.exp((most[first] - squared) / MATRIX_NMS_SIGMA))
    decay[order] = by_rank
    return scores * decay


def uncovered(masks: np.ndarray, rows: np.ndarray) -> list[int]:
    """Of masks bool (K, h, w), or their :func:`shared_by_masks`, `rows` of them, best first: the places in `rows` of
    those that do not lie by more than half on a single better one of these."""
    shared = shared_by_masks(masks)
    area = shared.diagonal()
    pairs = np.argwhere(np.triu(shared[rows][:, rows] > area[rows] / 2, 1))
    return surviving(len(rows), pairs.tolist())


def _overlaps_by_rank(
    masks: np.ndarray, scores: np.ndarray, classes: np.ndarray | None, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The order by descending score, and every two of one class that overlap: the ranks of the better and the worse,
    ascending, and their IoU, float32, with the rounding of `mask_iou`."""
    order = np.argsort(-scores, kind="stable")
    own = order if rows is None else rows[order]
    shared = shared_by_masks(masks)
    area, pairs = shared.diagonal().astype(np.float32), np.triu(shared[own][:, own], 1)
    if classes is not None:
        pairs *= classes[order][:, None] == classes[order]
    first, second = np.nonzero(pairs)
    inter = pairs[first, second].astype(np.float32)
    return order, first, second, inter / (area[own[first]] + area[own[second]] - inter)


def shared_by_masks(masks: np.ndarray) -> np.ndarray:
    """:func:`shared_cells` of masks bool (K, h, w); what is that already stays."""
    if masks.ndim == 2:
        return masks
    pixels = math.prod(masks.shape[1:])
    flat = np.ascontiguousarray(masks).reshape(-1)
    # few cells are set: eight at a time are looked at first
    eights = flat[: len(flat) // 8 * 8].reshape(-1, 8)
    some = np.flatnonzero(eights.view(np.int64)[:, 0] != 0) if len(eights) else np.zeros(0, np.int64)
    at, within = np.nonzero(eights[some])
    cells = np.concatenate([some[at] * 8 + within, np.flatnonzero(flat[eights.size :]) + eights.size])
    owners, cells = np.divmod(cells, max(1, pixels))
    return shared_cells(cells, owners, len(masks))


def shared_cells(cells: np.ndarray, owners: np.ndarray, count: int) -> np.ndarray:
    """How many cells every two of `count` masks share, and on the diagonal how many each has: int64 (K, K), of cells
    int64 (P,) and the mask that each is in, int64 (P,)."""
    times = np.bincount(cells)
    if _DENSE * float(times @ times) > count**2 * float(np.count_nonzero(times)):
        dense = np.zeros((count, np.count_nonzero(times)), np.float32)
        dense[owners, (np.cumsum(times > 0) - 1)[cells]] = 1
        return (dense @ dense.T).astype(np.int64)
    cell, owner = np.divmod(np.sort(cells * count + owners), max(1, count))
    pairs, at = [cell[:0]], np.arange(len(cell))
    for step in range(1, count):  # of the masks of one cell, each and the one that comes so many later
        at = at[: np.searchsorted(at, len(cell) - step)]
        at = at[cell[at] == cell[at + step]]
        if not len(at):
            break
        pairs.append(owner[at] * count + owner[at + step])
    shared = np.bincount(np.concatenate(pairs), minlength=count**2).reshape(count, count)
    return shared + shared.T + np.diag(np.bincount(owners, minlength=count))


def surviving(count: int, pairs: Sequence[Sequence[int]]) -> list[int]:
    """Greedy suppression: items 0..count-1 by rank; pairs (i, j), i < j, sorted: "i suppresses j"."""
    suppressed = bytearray(count)
    for i, j in pairs:
        if not suppressed[i]:
            suppressed[j] = 1
    return [i for i in range(count) if not suppressed[i]]
