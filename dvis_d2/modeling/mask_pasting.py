"""Masks at full resolution, each inside its own box, without ever interpolating labels (NumPy, on the host).

Between labels 0 and 5 lie 1, 2, 3 and 4, so a label map must not be interpolated before it is discretized. Each
instance's soft membership may be, and so may the mask head's output: enlarged on its own, bilinearly, and cut at 1/2.

Shapes: K masks, M x M the mask head's output, (h, w) the label map's grid, (H, W) the network's input without padding,
(Ho, Wo) the output. Cell (i, j) of the grid covers the image's pixels [i * stride, (i + 1) * stride) x
[j * stride, (j + 1) * stride). Arguments are arrays or tensors.
"""

import math
from typing import Any

import numpy as np

from ..data.cropped_masks import CroppedMasks
from .arrays import to_host
from .masks import mask_boxes

MASK_SOURCES = ("head", "label_map")
_CHUNK = 1 << 22  # pixels that one step works on at a time: 16 MiB of float32 for each temporary


def final_masks(
    soft_masks: Any,
    mask_probs: Any,
    boxes: Any,
    *,
    source: str,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> CroppedMasks:
    """Detections' masks at the output's size, to which the image is scaled; empty ones with empty boxes. `source`
    "head" draws the head's masks, float (K, M, M) in [0, 1], inside the boxes; "label_map" the upsampled soft
    memberships (section 4), float (K, h, w) in [0, 1]. See :func:`paste_masks`, :func:`upsample_soft_masks`."""
    sizes = {"image_size": image_size, "output_size": output_size}
    if source == "label_map":
        return upsample_soft_masks(soft_masks, stride=stride, **sizes)
    return paste_masks(mask_probs, boxes, **sizes)


def paste_masks(
    mask_probs: Any, boxes: Any, *, image_size: tuple[int, int], output_size: tuple[int, int]
) -> CroppedMasks:
    """Masks of `output_size` where float (K, M, M) in [0, 1], stretched over boxes, float (K, 4), x0, y0, x1, y1 in
    pixels of an image of `image_size`, reach 1/2; nothing outside the boxes."""
    probs = to_host(mask_probs)
    zoom = [
        float(output_size[axis]) / float(image_size[axis]) for axis in (1, 0)
    ]  # sizes are tensors while torch traces
    size = np.array(output_size, dtype=np.float64)[::-1]  # x, y
    ends = to_host(boxes).astype(np.float64).reshape(-1, 4) * np.tile(zoom, 2)
    windows = np.concatenate([np.floor(ends[:, :2]).clip(0, size), np.ceil(ends[:, 2:]).clip(0, size)], axis=1)
    crops = []
    for values, box, window in zip(probs, ends, windows.astype(int), strict=True):
        at = [
            (np.arange(window[axis], window[axis + 2]) + 0.5 - box[axis])
            * (values.shape[1 - axis] / max(box[axis + 2] - box[axis], 1e-9))
            - 0.5
            for axis in (0, 1)
        ]
        crops.append(_reaching_half(values, at[1], at[0]))
    return _tight(output_size, windows.astype(int), crops)


def upsample_soft_masks(
    soft: Any, *, stride: float, image_size: tuple[int, int], output_size: tuple[int, int] | None = None
) -> CroppedMasks:
    """Masks of `output_size` where soft memberships, each interpolated inside its own box, reach 1/2.

    `soft`, float (K, h, w) in [0, 1], is zero outside the instance. Its grid, of `stride` image pixels a cell, may
    extend beyond the image (padding) or end before it (the last cell's value goes on). The network's input, (H, W)
    without padding, is scaled to `output_size`, (Ho, Wo).
    """
    output_size, soft = output_size or image_size, to_host(soft)
    scale = [stride * out / size for out, size in zip(output_size, image_size, strict=True)]  # output pixels a cell
    windows, crops = [], []
    for own, (x0, y0, x1, y1) in zip(soft, mask_boxes(soft > 0).astype(int).tolist(), strict=True):
        (top, bottom), (left, right) = (
            _output_range(low, high, own.shape[axis], scale[axis], output_size[axis])
            for axis, (low, high) in enumerate([(y0, y1), (x0, x1)])
        )
        rows, columns = (
            ((np.arange(start, end) + 0.5) / scale[axis] - 0.5).clip(0, own.shape[axis] - 1) - low
            for axis, (start, end, low) in enumerate([(top, bottom, y0), (left, right, x0)])
        )
        windows.append([left, top, right, bottom])
        crops.append(_reaching_half(own[y0:y1, x0:x1], rows, columns))
    return _tight(output_size, np.array(windows, dtype=int).reshape(-1, 4), crops)


def _output_range(start: int, end: int, cells: int, scale: float, size: int) -> tuple[int, int]:
    """Output pixels [low, high) whose interpolation reaches cells [start, end); `scale` pixels a cell."""
    if start >= end:
        return 0, 0
    low = min(max(math.floor((start - 0.5) * scale - 0.5), 0), size)
    high = size if end == cells else min(math.ceil((end + 0.5) * scale + 0.5), size)
    return low, max(low, high)


def _reaching_half(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """bool (R, C): where values (n, m), at their places 0, 1, ..., interpolated at rows (R,) x columns (C,), and 0 from
    one place beyond the last on, reach 1/2."""
    across = np.ascontiguousarray(_interpolated(values.astype(np.float32).T, columns).T)
    step = max(1, _CHUNK // max(1, len(columns)))
    parts = [_interpolated(across, rows[k : k + step]) >= 0.5 for k in range(0, max(1, len(rows)), step)]
    return np.concatenate(parts)


def _interpolated(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(P, m) of values (n, m), between their rows, at places (P,)."""
    padded = np.zeros((len(values) + 2, values.shape[1]), values.dtype)  # `np.pad` takes longer than all the rest
    padded[1:-1] = values
    low = np.floor(at).clip(-1, len(values) - 1)
    share = (at - low).clip(0, 1).astype(np.float32)[:, None]
    row = low.astype(int) + 1
    return padded[row] * (1 - share) + padded[row + 1] * share


def _tight(size: tuple[int, int], windows: np.ndarray, crops: list[np.ndarray]) -> CroppedMasks:
    """Masks of an image from crops at windows (K, 4), cut to what is set."""
    inside = [CroppedMasks.from_masks(crop[None]) for crop in crops]
    boxes = np.array([own.boxes[0] for own in inside], dtype=int).reshape(-1, 4)
    moved = np.where(boxes[:, 2:3] > 0, boxes + np.tile(windows[:, :2], 2), 0)
    return CroppedMasks(size, moved, [own.crops[0] for own in inside])
