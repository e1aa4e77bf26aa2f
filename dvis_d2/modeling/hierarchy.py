"""The hierarchy of a label map's foreground: small connected regions, and what they merge to (NumPy, OpenCV).

The relief is how far a cell is from the background and from the steps between labels; its hills are the smallest
regions. Neighbors merge in the order of how alike they are. Every region that occurs may be an object.

Shapes: (h, w) the map, F foreground cells, A hills, M regions.
"""

import heapq
from dataclasses import dataclass

import cv2
import numpy as np

_SMOOTHING = 1.0  # sigma, in cells, of the relief: hills that one cell's noise makes are none


@dataclass
class Hierarchy:
    """Regions, the hills first; every later one merges two of the earlier."""

    cells: np.ndarray  # int64 (F,), indices into the flat map, so ordered that each region's follow each other
    start: np.ndarray  # int64 (M,), a region's cells are cells[start:stop]
    stop: np.ndarray
    height: np.ndarray  # float64 (M,), the dissimilarity at which it was merged, 0 for hills; no less than its parts'
    parent: np.ndarray  # int64 (M,), what it merges to, -1 for the connected components of the foreground

    @property
    def stability(self) -> np.ndarray:
        """float64 (M,) in [0, 1]: the range of dissimilarities, up to 1, at which the region is one."""
        merged = np.where(self.parent < 0, 1.0, self.height[self.parent])
        return np.minimum(merged, 1) - np.minimum(self.height, 1)


def find_hierarchy(labels: np.ndarray, foreground: np.ndarray, step_threshold: float) -> Hierarchy:
    """Of labels float32 (h, w), finite, and foreground bool (h, w); labels of neighbors that differ by more than
    `step_threshold` have a border between them.

    The dissimilarity of two neighbors is |difference of mean labels| + 1 - saddle / lower peak: at a margin between
    instances of 1 they are different objects, and so are they if the neck between them is much narrower than either.
    """
    relief = _relief(labels, foreground, step_threshold)
    cells, hill, tops = _hills(relief)
    label = np.pad(labels, 1).reshape(-1)[cells].astype(np.float64)
    count = len(tops)
    area, total = np.bincount(hill, minlength=count), np.bincount(hill, label, count)
    pairs, saddles = _borders(relief, cells, hill, count)
    merges, heights = _merge(area, total, relief.reshape(-1)[tops], pairs, saddles)

    size = np.concatenate([area, np.zeros(len(merges), dtype=area.dtype)])
    parent = np.full(len(size), -1)
    for region, (a, b) in enumerate(merges, start=count):
        size[region] = size[a] + size[b]
        parent[a] = parent[b] = region
    start, free = np.zeros(len(size), dtype=np.int64), 0
    for region in range(len(size) - 1, -1, -1):  # wholes before their parts
        if parent[region] < 0:
            start[region], free = free, free + size[region]
        if region >= count:
            a, b = merges[region - count]
            start[a], start[b] = start[region], start[region] + size[a]
    row, column = np.divmod(cells[np.argsort(start[hill], kind="stable")], relief.shape[1])
    flat = (row - 1) * labels.shape[1] + column - 1
    return Hierarchy(flat, start, start + size, np.concatenate([np.zeros(count), heights]), parent)


def _relief(labels: np.ndarray, foreground: np.ndarray, step_threshold: float) -> np.ndarray:
    """float32 (h + 2, w + 2), with a margin; positive in the foreground alone."""
    within = foreground.copy()
    for low, high in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        step = (np.abs(labels[low] - labels[high]) > step_threshold) & foreground[low] & foreground[high]
        within[low] &= ~step
        within[high] &= ~step
    distance = cv2.distanceTransform(np.pad(within, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    smooth = cv2.GaussianBlur(distance, (0, 0), _SMOOTHING)
    return np.where(np.pad(foreground, 1), np.maximum(smooth, 1e-6), 0).astype(np.float32)


def _hills(relief: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The foreground's cells int64 (F,), in the flat relief; the hill of each, on which one that always steps to its
    highest 4-neighbor ends; and the hills' tops int64 (A,)."""
    stride, flat = relief.shape[1], relief.reshape(-1)
    cells = np.flatnonzero(flat)
    highest, target = flat[cells], cells
    for offset in (-stride, -1, 1, stride):
        other = flat[cells + offset]
        # among equal ones to the lowest index: level ground is one hill, and nobody walks in a circle
        higher = (other > highest) | ((other == highest) & (cells + offset < target))
        highest, target = np.where(higher, other, highest), np.where(higher, cells + offset, target)
    next_cell = np.zeros(flat.size, dtype=np.int64)
    while True:  # each round doubles the steps
        next_cell[cells] = target
        further = next_cell[target]
        if np.array_equal(further, target):
            break
        target = further
    tops, hill = np.unique(target, return_inverse=True)
    return cells, hill, tops


def _borders(relief: np.ndarray, cells: np.ndarray, hill: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of hills that touch, int64 (E, 2), and the highest saddle between them, float (E,)."""
    stride, flat = relief.shape[1], relief.reshape(-1)
    owner = np.full(flat.size, -1, dtype=np.int64)
    owner[cells] = hill
    keys, saddles = [], []
    for offset in (1, stride):
        mine, theirs = hill, owner[cells + offset]
        touch = (theirs >= 0) & (mine != theirs)
        mine, theirs = mine[touch], theirs[touch]
        keys.append(np.minimum(mine, theirs) * count + np.maximum(mine, theirs))
        saddles.append(np.minimum(flat[cells[touch]], flat[cells[touch] + offset]))
    key, border = np.unique(np.concatenate(keys), return_inverse=True)
    highest = np.zeros(len(key))
    np.maximum.at(highest, border, np.concatenate(saddles))
    return np.stack(np.divmod(key, max(1, count)), 1), highest


def _merge(
    area: np.ndarray, total: np.ndarray, peak: np.ndarray, pairs: np.ndarray, saddles: np.ndarray
) -> tuple[list[tuple[int, int]], list[float]]:
    """The most alike neighbors first, until none are left: which regions each merge joins, numbered on from the hills,
    and its height."""
    count = len(area)
    areas, totals, peaks = area.tolist(), total.tolist(), peak.tolist()
    neighbors: list[dict[int, float]] = [{} for _ in areas]  # of each region, and the saddle between them

    def dissimilarity(a: int, b: int, saddle: float) -> float:
        return abs(totals[a] / areas[a] - totals[b] / areas[b]) + 1 - saddle / min(peaks[a], peaks[b])

    queue = []
    for (a, b), saddle in zip(pairs.tolist(), saddles.tolist(), strict=True):
        neighbors[a][b] = neighbors[b][a] = saddle
        queue.append((dissimilarity(a, b, saddle), a, b))
    heapq.heapify(queue)
    merges: list[tuple[int, int]] = []
    heights, height_of, merged = list[float](), [0.0] * count, bytearray(2 * count)
    while queue:
        height, a, b = heapq.heappop(queue)
        if merged[a] or merged[b]:
            continue
        region = count + len(merges)
        merged[a] = merged[b] = 1
        merges.append((a, b))
        heights.append(max(height, height_of[a], height_of[b]))
        height_of.append(heights[-1])
        for quantity in (areas, totals):
            quantity.append(quantity[a] + quantity[b])
        peaks.append(max(peaks[a], peaks[b]))
        few, many = sorted((neighbors[a], neighbors[b]), key=len)
        for other, saddle in few.items():
            many[other] = max(saddle, many.get(other, 0.0))
        many.pop(a, None)
        many.pop(b, None)
        neighbors.append(many)
        neighbors[a] = neighbors[b] = {}
        for other, saddle in many.items():
            neighbors[other].pop(a, None)
            neighbors[other].pop(b, None)
            neighbors[other][region] = saddle
            heapq.heappush(queue, (dissimilarity(other, region, saddle), other, region))
    return merges, heights
