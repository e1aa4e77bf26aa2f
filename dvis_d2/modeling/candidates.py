"""The candidate masks of one label map, scored (NumPy and OpenCV, on the host)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .hierarchy import find_hierarchy
from .masks import shared_cells, surviving

SOURCES = ("levels", "regions")
MIN_STABILITY = 0.1  # a region that lives shorter is the same object as what it merges to
_NEIGHBORS = np.ones((3, 3), dtype=np.uint8)


@dataclass
class Candidates:
    """K scored candidates of one image, best first; a cell is candidate * h * w + row * w + column."""

    values: np.ndarray  # float32 (K,), mean labels
    scores: np.ndarray  # float32 (K,)
    inside: np.ndarray  # int64, the cells of the masks
    ring: np.ndarray  # int64, the cells just around them (8 neighbors)


@dataclass
class _Candidate:
    cells: np.ndarray
    ring: np.ndarray
    value: float
    score: float
    wholeness: float  # of a level in several parts, else 0


def find_candidates(
    labels: np.ndarray,
    foreground: np.ndarray,
    levels: np.ndarray,
    *,
    sources: Sequence[str],
    min_area: int,
    min_part_ratio: float,
    step_threshold: float,
    nms_threshold: float,
    max_candidates: int,
) -> Candidates:
    """Candidates of one image; `grouping.group_label_map` explains the options and the score.

    `labels` are float32 (h, w), finite, `foreground` bool (h, w), `levels` int (B, h, w), those at each bandwidth.
    """
    found: list[tuple[float, float, np.ndarray]] = []  # weight, wholeness, cells
    most = 4 * max_candidates  # bounds the time where noise makes thousands
    if foreground.any():
        if "levels" in sources:
            component = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=4)[1]
            component_area = np.bincount(component[foreground])[component]
            for level in levels:
                found += _whole_levels(level, foreground, component_area, min_area, min_part_ratio)
        if "regions" in sources:
            found += _stable_regions(labels, foreground, step_threshold, min_area, most)
    found.sort(key=lambda candidate: -candidate[0])
    each = _rank([*_describe(labels, found[:most])], nms_threshold)[:max_candidates]
    nowhere = np.zeros(0, dtype=np.int64)
    return Candidates(
        np.array([candidate.value for candidate in each], dtype=np.float32),
        np.array([candidate.score for candidate in each], dtype=np.float32),
        np.concatenate([nowhere, *(k * labels.size + candidate.cells for k, candidate in enumerate(each))]),
        np.concatenate([nowhere, *(k * labels.size + candidate.ring for k, candidate in enumerate(each))]),
    )


def _stable_regions(
    labels: np.ndarray, foreground: np.ndarray, step_threshold: float, min_area: int, most: int
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Stability, 0 and cells of the `most` stable regions that may be objects. Specks beside other foreground are none:
    a soft border between two labels leaves them."""
    regions = find_hierarchy(labels, foreground, step_threshold)
    stability = regions.stability
    credible = (regions.parent < 0) | ((regions.stop - regions.start >= min_area) & (stability >= MIN_STABILITY))
    chosen = np.flatnonzero(credible)
    chosen = np.sort(chosen[np.argsort(-stability[chosen], kind="stable")[:most]])
    for region in chosen:
        cells = regions.cells[regions.start[region] : regions.stop[region]]
        label = labels.reshape(-1)[cells]
        # the median is the object's label, and its soft border ends where membership is 1/2
        core = cells[label >= _median(label) - 0.5]
        yield float(stability[region]), 0.0, core


def _median(values: np.ndarray) -> np.floating:
    """`np.median`, which takes ten times as long for the few cells of a region."""
    middle = (len(values) - 1) // 2, len(values) // 2
    low, high = np.partition(values, middle)[[*middle]]
    return (low + high) / 2


def _whole_levels(
    level: np.ndarray, foreground: np.ndarray, component_area: np.ndarray, min_area: int, min_part_ratio: float
) -> Iterator[tuple[float, float, np.ndarray]]:
    """How far each level looks like one object, the same or 0 if it is in one part, and its cells, but for specks and
    small parts. `component_area` is that of the foreground that hangs together with a cell."""
    part = _connected(level, foreground)
    area = np.bincount(part[foreground])
    kept = foreground & ((area[part] == component_area) | (area[part] >= min_area))
    largest = np.zeros(level.max() + 1)
    np.maximum.at(largest, level[kept], area[part[kept]])
    kept &= area[part] >= min_part_ratio * largest[level]
    cells = np.flatnonzero(kept)
    cells = cells[np.argsort(level.reshape(-1)[cells], kind="stable")]
    ends = np.flatnonzero(np.diff(level.reshape(-1)[cells])) + 1
    for own in np.split(cells, ends) if len(cells) else ():
        parts = np.unique(part.reshape(-1)[own], return_inverse=True)[1]
        wholeness = _wholeness(own, parts, level.shape[1])
        yield wholeness, wholeness * parts.any(), own


def _connected(level: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """int32 (h, w): components of 4-neighbors of the foreground that share a level, from 0; anything elsewhere."""
    # On a grid of twice the resolution the cells between two cells are set where the two are of one level.
    height, width = level.shape
    grid = np.zeros((2 * height, 2 * width), dtype=np.uint8)
    grid[::2, ::2] = foreground
    grid[::2, 1:-1:2] = foreground[:, :-1] & foreground[:, 1:] & (level[:, :-1] == level[:, 1:])
    grid[1:-1:2, ::2] = foreground[:-1] & foreground[1:] & (level[:-1] == level[1:])
    components = cv2.connectedComponents(grid, connectivity=4, ltype=cv2.CV_32S)[1]
    return np.maximum(components[::2, ::2] - 1, 0)


def _wholeness(cells: np.ndarray, parts: np.ndarray, width: int) -> float:
    """In [0, 1]: 1 for cells in one part, less the farther the parts, numbered from 0, lie apart for their size."""
    row, column = np.divmod(cells, width)

    def mean_square_radius(group: np.ndarray) -> np.ndarray:
        area, *sums = (np.bincount(group, x) for x in (None, row, column, row * row + column * column))
        y, x, square = (total / area for total in sums)
        return square - y**2 - x**2 + 1 / 6  # 1 / 6: a cell's own extent

    ratio = min(1.0, mean_square_radius(parts).sum() / mean_square_radius(np.zeros_like(parts))[0])
    return ratio**4 / (ratio**4 + (1 - ratio) ** 4)


def _describe(labels: np.ndarray, found: list[tuple[float, float, np.ndarray]]) -> Iterator[_Candidate]:
    """The candidates of weights, wholenesses and cells: their rings, values and scores."""
    if not found:
        return
    size = np.array([len(cells) for _, _, cells in found])
    start = np.cumsum(size) - size
    cells = np.concatenate([cells for _, _, cells in found])
    row, column = np.divmod(cells, labels.shape[1])
    label = labels.reshape(-1)[cells].astype(np.float64)
    values = np.add.reduceat(label, start) / size
    spreads = np.sqrt(np.add.reduceat(np.square(label - values.repeat(size)), start) / size)
    lows = [(np.minimum.reduceat(place, start) - 1).clip(0).tolist() for place in (row, column)]
    highs = [(np.maximum.reduceat(place, start) + 2).tolist() for place in (row, column)]
    each = zip(found, start.tolist(), values.tolist(), spreads.tolist(), *lows, *highs, strict=True)
    for (weight, wholeness, own), begin, value, spread, top, left, bottom, right in each:
        around = labels[top:bottom, left:right]
        mask = np.zeros(around.shape, dtype=np.uint8)
        end = begin + len(own)
        mask[row[begin:end] - top, column[begin:end] - left] = 1
        ring = (cv2.dilate(mask, _NEIGHBORS) > mask).nonzero()
        interior = cv2.erode(mask, _NEIGHBORS, borderType=cv2.BORDER_REPLICATE).sum() / len(own)
        # a mask without a border fills the image: nothing speaks against it
        contrast = np.minimum(1, np.abs(around[ring] - value)).mean() if len(ring[0]) else 1.0
        score = max(0.0, contrast - spread) * (1 + interior) / 2 * weight
        outside = (ring[0] + top) * labels.shape[1] + ring[1] + left
        yield _Candidate(own, outside, value, float(score), wholeness)


def _rank(candidates: list[_Candidate], threshold: float) -> list[_Candidate]:
    """Best first. What belongs to a level in several parts has a lower score, the more this looks like one object. Of
    two with a higher IoU than the threshold, and of equal ones, only the first."""
    area = np.array([len(candidate.cells) for candidate in candidates], dtype=np.int64)
    cells = np.concatenate([area[:0], *(candidate.cells for candidate in candidates)])
    shared = shared_cells(cells, np.repeat(np.arange(len(area)), area), len(area))
    np.fill_diagonal(shared, 0)
    first, second = np.nonzero(shared)
    inter = shared[first, second]

    wholeness = np.array([candidate.wholeness for candidate in candidates])
    piece = (inter == area[first]) & (area[first] < area[second])
    belonging = np.zeros(len(area))
    np.maximum.at(belonging, first[piece], wholeness[second[piece]])
    for candidate, factor in zip(candidates, (1 - belonging / 2).tolist(), strict=True):
        candidate.score *= factor

    order = np.argsort([-candidate.score for candidate in candidates], kind="stable")
    rank = np.argsort(order)
    alike = (inter > threshold * (area[first] + area[second] - inter)) | (
        inter == np.maximum(area[first], area[second])
    )
    alike &= rank[first] < rank[second]
    pairs = np.stack([rank[first[alike]], rank[second[alike]]], 1)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return [candidates[order[k]] for k in surviving(len(area), pairs.tolist())]
