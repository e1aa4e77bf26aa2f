"""From label map to proposals: candidate masks on the map's grid, ranked (paper, section 4).

Mean shift cuts the foreground's values into levels; steps between neighboring labels and necks cut it into a hierarchy
of connected regions (docs/guide/grouping.md).

Shapes: N images, (h, w) the map's grid, K proposals, B bandwidths. Needs NumPy and OpenCV alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import like, to_host, zeros
from .candidates import SOURCES, Candidates, find_candidates
from .mean_shift import mean_shift_1d_batched
from .options import check_range

_FAR = -1e30


@dataclass
class Grouping:
    """The proposals of one image, best first: arrays or tensors, as the label map, on its device."""

    masks: Any  # bool (K, h, w)
    values: Any  # float32 (K,), the mean label inside the mask
    scores: Any  # float32 (K,) in [0, 1], descending
    soft: Any  # float32 (K, h, w) in [0, 1], see `proposal_generator.soft_membership`
    levels: Any  # int64 (h, w), each cell's mean-shift level at the least bandwidth, from 0 up; -1 for background

    def __len__(self) -> int:
        return len(self.masks)


def group_label_map(
    label_map: Any,
    *,
    bandwidths: Sequence[float] = (0.9, 0.4),
    foreground_threshold: float = 1.0,
    candidates: Sequence[str] = SOURCES,
    min_area: int = 2,
    min_part_ratio: float = 0.05,
    step_threshold: float = 0.2,
    nms_threshold: float = 0.8,
    max_proposals: int = 100,
    valid: Sequence[tuple[int, int]] | None = None,
) -> list[Grouping]:
    """Proposals of every image of a batch.

    Args:
        label_map: float (N, h, w), an array or a tensor, with or without the ReLU. Cells that are not finite are
            background.
        bandwidths: of the mean shift, in label units (the margin between instances is 1); each gives levels of its own.
        foreground_threshold: cells with a label up to this are background.
        candidates: what to offer.
            "levels": all cells of a mean-shift level: an object in several parts stays whole.
            "regions": the stable regions of a `hierarchy.Hierarchy`, each cut where its soft border is half way: what
            touches comes apart at steps between labels and at necks.
        min_area: smallest part of a level, and smallest region, in cells, where other foreground touches it
            (4 neighbors): soft borders leave such specks. What stands alone may have any size.
        min_part_ratio: parts of a level below this share of its largest part are in no candidate.
        step_threshold: labels of neighbors that differ by more have a border between them, in label units.
        nms_threshold: of two masks with a higher IoU than this, and of equal ones, that of the lower score is dropped.
        max_proposals: K at most.
        valid: for each image the (rows, columns) of the map that are image, not padding; None: all.

    Returns:
        a `Grouping` for each image; docs/guide/grouping.md derives the score

            max(0, contrast - spread) * (1 + interior) / 2 * (stability of a region | wholeness of a level)

    ValueError for another shape, an unknown source of candidates, or none, no bandwidth, and for a number out
    of its range.
    """
    if label_map.ndim != 3:
        raise ValueError(f"label_map must be (N, h, w), got {tuple(label_map.shape)}")
    if not candidates or not set(candidates) <= set(SOURCES):
        raise ValueError(f"candidates must name some of {SOURCES}, got {tuple(candidates)}")
    if not bandwidths:
        raise ValueError("bandwidths must name at least one, in label units")
    check_range(-math.inf, foreground_threshold=foreground_threshold)
    check_range(min_area=min_area, step_threshold=step_threshold, max_proposals=max_proposals)
    check_range(0, 1, min_part_ratio=min_part_ratio, nms_threshold=nms_threshold)
    labels = to_host(label_map).astype(np.float32)  # the one trip to the host
    foreground = np.isfinite(labels) & (labels > foreground_threshold)
    labels[~np.isfinite(labels)] = _FAR  # far from every value
    for image, (rows, columns) in enumerate(valid or ()):
        foreground[image, rows:] = False
        foreground[image, :, columns:] = False
    levels = _find_levels(labels, foreground, bandwidths)

    finest = levels[int(np.argmin(bandwidths))]
    options: dict[str, Any] = dict(sources=candidates, min_area=min_area, min_part_ratio=min_part_ratio)
    options |= dict(step_threshold=step_threshold, nms_threshold=nms_threshold, max_candidates=max_proposals)
    made_on = label_map if getattr(label_map, "is_cuda", False) else labels
    groupings = []
    for image, own in enumerate(labels):
        found = find_candidates(own, foreground[image], levels[:, image], **options)
        masks, soft = _dense(found, *(like(array, made_on) for array in (own, foreground[image])))
        arrays = masks, found.values, found.scores, soft, finest[image]
        groupings.append(Grouping(*(like(array, label_map) for array in arrays)))
    return groupings


def _find_levels(labels: np.ndarray, foreground: np.ndarray, bandwidths: Sequence[float]) -> np.ndarray:
    """int64 (B, N, h, w): the level of every foreground cell, ascending by label from 0; -1 for background."""
    count, num_sets = len(labels), len(labels) * len(bandwidths)
    cells = np.flatnonzero(foreground)
    images = cells // max(1, labels[:1].size)
    set_ids = np.concatenate([images + b * count for b in range(len(bandwidths))])
    _, mode_sets, assignment = mean_shift_1d_batched(
        np.tile(labels.reshape(-1)[cells], len(bandwidths)),
        set_ids,
        [bandwidth for bandwidth in bandwidths for _ in range(count)],
    )
    first_mode = np.searchsorted(mode_sets, np.arange(num_sets))
    levels = np.full((len(bandwidths), labels.size), -1, dtype=np.int64)
    levels[:, cells] = (assignment - first_mode[set_ids]).reshape(len(bandwidths), len(cells))
    return levels.reshape(len(bandwidths), *labels.shape)


def _dense(candidates: Candidates, labels: Any, foreground: Any) -> tuple[Any, Any]:
    """Masks and soft memberships (K, h, w), of the labels' type, from lists of cells: much less to copy to a device."""
    size = max(1, math.prod(labels.shape))
    masks, soft = (zeros((len(candidates.values), *labels.shape), kind) for kind in (foreground, labels))
    arrays = np.concatenate([candidates.inside, candidates.ring]), candidates.values
    cells, values = (like(array, labels) for array in arrays)
    masks.reshape(-1)[cells[: len(candidates.inside)]] = True
    distance = abs(labels.reshape(-1)[cells % size] - values[cells // size])
    soft.reshape(-1)[cells] = (1 - distance).clip(0)
    return masks, soft
