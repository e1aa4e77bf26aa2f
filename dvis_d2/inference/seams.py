"""Detections in overlapping tiles become those of the whole image: none twice, and cut objects in one piece."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.cropped_masks import CroppedMasks

SAME = 0.5  # IoU, in the pixels that two tiles share, above which masks are one object's; or the share that is covered
CELL = 64  # pixels, of the grid in which masks look for those that meet them


@dataclass(frozen=True)
class Found:
    """The K detections of an image, best first."""

    masks: CroppedMasks  # with tight boxes
    scores: np.ndarray  # float32 (K,)
    classes: np.ndarray  # int64 (K,)

    def __len__(self) -> int:
        return len(self.scores)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of one length begin that cover 0..length, evenly, each overlapping the next by `overlap` or more."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def merge_tiles(
    starts: tuple[list[int], list[int]], tile: tuple[int, int], found: Sequence[Found], *, margin: int = 1
) -> Found:
    """The image's detections from those of every tile, row by row, in the image's frame.

    A tile owns the masks whose center is nearer to its middle than to other tiles'. Of two masks of one class that
    agree where both tiles look, the one that no border cuts stays, or the one that its tile owns, or the better one; if
    borders cut both, they are parts of one object and are joined. A mask that its tile does not own stays only where
    no other tile has anything, and if it is not cut.

    `starts` are the rows and columns where tiles of the size `tile` begin; masks that end up to `margin` pixels before
    a border inside the image are cut by it.
    """
    masks = CroppedMasks.cat([own.masks for own in found])
    image_size, boxes, crops = masks.image_size, masks.boxes, masks.crops
    scores, classes = np.concatenate([own.scores for own in found]), np.concatenate([own.classes for own in found])
    tile_of = np.repeat(np.arange(len(found)), [len(own) for own in found])
    corners = np.array(list(itertools.product(*starts)))[tile_of, ::-1]
    windows = np.concatenate([corners, corners + tile[::-1]], axis=1)
    low = (boxes[:, :2] - windows[:, :2] <= margin) & (windows[:, :2] > 0)
    high = (windows[:, 2:] - boxes[:, 2:] <= margin) & (windows[:, 2:] < image_size[::-1])
    cut = (low | high).any(axis=1)
    owned = np.ones(len(boxes), dtype=bool)
    for axis, place in enumerate(np.divmod(tile_of, len(starts[1]))):
        begin = np.array(starts[axis])
        between = (begin[1:] + begin[:-1] + tile[axis]) / 2
        owned &= np.searchsorted(between, boxes[:, [1 - axis, 3 - axis]].mean(axis=1), side="right") == place

    group: dict[int, list[int]] = {}  # of each mask that stays: those joined with it, one list for all of them
    grid: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in np.lexsort((-scores, ~owned, cut)).tolist():
        x0, y0, x1, y1 = boxes[i].tolist()
        cells = list(itertools.product(range(y0 // CELL, -(-y1 // CELL)), range(x0 // CELL, -(-x1 // CELL))))
        twins, covered = [], Counter[int]()
        for j in {j for cell in cells for j in grid[cell] if tile_of[j] != tile_of[i]}:
            both = np.count_nonzero(_part(boxes[i], crops[i], boxes[j]) & _part(boxes[j], crops[j], boxes[i]))
            ours, theirs = _part(boxes[i], crops[i], windows[j]), _part(boxes[j], crops[j], windows[i])
            covered[tile_of[j]] += both
            agree = both > SAME * (np.count_nonzero(ours) + np.count_nonzero(theirs) - both)
            if agree and (classes[i] == classes[j] or cut[i] and cut[j]):
                twins.append(j)
        parts = [j for j in twins if cut[i] and cut[j]]
        alone = not cut[i] and max(covered.values(), default=0) <= SAME * np.count_nonzero(crops[i])
        if len(parts) < len(twins) or not (parts or owned[i] or alone):
            continue
        group[i] = [i]
        for j in parts:
            if group[j] is not group[i]:
                group[i] += group[j]
                group |= dict.fromkeys(group[i], group[i])
        for cell in cells:
            grid[cell].append(i)

    joined = sorted({id(own): own for own in group.values()}.values(), key=lambda own: -scores[own].max())
    largest = [max(own, key=lambda k: np.count_nonzero(crops[k])) for own in joined]
    unions = [_union(boxes[own], [crops[k] for k in own]) for own in joined]
    masks = CroppedMasks(image_size, np.array([box for box, _ in unions]), [crop for _, crop in unions])
    best = np.array([scores[own].max() for own in joined], dtype=scores.dtype)
    return Found(masks, best, classes[np.array(largest, dtype=int)])


def _part(box: np.ndarray, crop: np.ndarray, window: np.ndarray) -> np.ndarray:
    """What of a crop is in a window."""
    x0, y0, x1, y1 = np.maximum(window - box[[0, 1, 0, 1]], 0)
    return crop[y0:y1, x0:x1]


def _union(boxes: np.ndarray, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One box and crop of several."""
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    union = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=bool)
    for own, crop in zip(boxes, crops, strict=True):
        _part(box, union, own)[...] |= crop
    return box, union
