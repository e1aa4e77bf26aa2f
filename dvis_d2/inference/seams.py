"""Detections in overlapping tiles become those of the whole image: none twice, and cut objects in one piece.

Every pixel belongs to the tile in whose middle it is, up to half of the overlaps: a tile owns the detections that have
their center there. T tiles, N detections of all of them, (H, W) the image.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..data.cropped_masks import CroppedMasks

SAME = 0.5  # IoU, inside the pixels that two tiles share, above which two masks are one object's


class Detections(NamedTuple):
    masks: CroppedMasks  # K of them
    scores: np.ndarray  # float (K,)
    classes: np.ndarray  # int64 (K,)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of one length begin that cover 0..length, evenly, each overlapping the next by `overlap` or more."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]


def merge_tiles(
    image_size: tuple[int, int],
    starts: tuple[list[int], list[int]],
    tile: tuple[int, int],
    found: Sequence[Detections],
    *,
    margin: int = 1,
) -> Detections:
    """The image's detections, best first.

    Of two masks of one class that agree where both tiles look, the one that is not cut by its tile's border stays, or
    the one whose tile owns it, or the better one; if the borders cut both, they are parts of one object and are joined.
    A detection that its tile does not own stays where the owner has nothing else, and is not cut.

    Args:
        starts, tile: rows and columns where tiles begin, and their height and width; the grid's order is by rows.
        found: the detections of every tile, masks in the image's frame with tight boxes.
        margin: masks that end so many pixels before a border inside the image are cut by it.
    """
    counts = [len(detections.scores) for detections in found]
    numbers = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    boxes = np.concatenate([d.masks.boxes for d in found])
    crops = list(itertools.chain.from_iterable(d.masks.crops for d in found))
    scores = np.concatenate([d.scores for d in found])
    classes = np.concatenate([d.classes for d in found])
    windows = np.array([[x, y, x + tile[1], y + tile[0]] for y in starts[0] for x in starts[1]])
    tile_of = np.repeat(np.arange(len(found)), counts)
    cut = _cut(boxes, windows[tile_of], image_size, margin)
    owned = _owned(boxes, tile_of, starts, tile)

    overlaps: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for t, u in _neighbors(starts, tile):
        window = np.concatenate([np.maximum(windows[t], windows[u])[:2], np.minimum(windows[t], windows[u])[2:]])
        for i, j, iou, of_i, of_j in _overlaps(boxes, crops, numbers[t], numbers[u], window):
            overlaps[i].append((j, iou, of_i))
            overlaps[j].append((i, iou, of_j))

    group: dict[int, list[int]] = {}  # of each detection that stays: those joined with it, one list for all of them
    for i in np.lexsort((-scores, ~owned, cut)).tolist():
        kept = [(j, iou, share) for j, iou, share in overlaps[i] if j in group]
        twins = [j for j, iou, _ in kept if iou > SAME and (classes[i] == classes[j] or cut[i] and cut[j])]
        parts = [j for j in twins if cut[i] and cut[j]]
        if len(parts) < len(twins):
            continue  # a whole one stays
        covered: dict[int, float] = defaultdict(float)
        for j, _, share in kept:
            covered[tile_of[j]] += share
        if not parts and not owned[i] and (cut[i] or max(covered.values(), default=0) > SAME):
            continue
        group[i] = [i]
        for j in parts:
            if group[j] is not group[i]:
                group[i] += group[j]
                for k in group[i]:
                    group[k] = group[i]

    members = list({id(joined): joined for joined in group.values()}.values())
    members.sort(key=lambda joined: -scores[joined].max())
    merged = [_union(boxes[joined], [crops[k] for k in joined]) for joined in members]
    largest = [max(joined, key=lambda k: np.count_nonzero(crops[k])) for joined in members]
    masks = CroppedMasks(image_size, np.array([box for box, _ in merged]), [crop for _, crop in merged])
    return Detections(masks, np.array([scores[joined].max() for joined in members]), classes[np.array(largest, int)])


def _cut(boxes: np.ndarray, windows: np.ndarray, image_size: tuple[int, int], margin: int) -> np.ndarray:
    """bool (N,): boxes that reach a border of their tile which is not the image's."""
    low = (boxes[:, :2] - windows[:, :2] <= margin) & (windows[:, :2] > 0)
    high = (windows[:, 2:] - boxes[:, 2:] <= margin) & (windows[:, 2:] < image_size[::-1])
    return (low | high).any(axis=1)


def _owned(boxes: np.ndarray, tile_of: np.ndarray, starts: tuple[list[int], list[int]], tile: tuple[int, int]):
    """bool (N,): boxes whose centers are nearest to the middle of their own tile, by rows and by columns."""
    places = np.divmod(tile_of, len(starts[1]))
    owned = np.ones(len(boxes), dtype=bool)
    for axis, place in enumerate(places):
        centers = boxes[:, [1 - axis, 3 - axis]].mean(axis=1)
        begin = np.array(starts[axis])
        between = (begin[1:] + begin[:-1] + tile[axis]) / 2  # the middle of each overlap
        owned &= np.searchsorted(between, centers, side="right") == place
    return owned


def _neighbors(starts: tuple[list[int], list[int]], tile: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """All pairs of tiles, t < u, that share pixels."""
    near = [
        [[b for b, other in enumerate(begin) if abs(own - other) < side] for own in begin]
        for begin, side in zip(starts, tile, strict=True)
    ]
    columns = len(starts[1])
    for row, column in itertools.product(range(len(starts[0])), range(columns)):
        t = row * columns + column
        for other in itertools.product(near[0][row], near[1][column]):
            u = other[0] * columns + other[1]
            if t < u:
                yield t, u


def _overlaps(
    boxes: np.ndarray, crops: list[np.ndarray], ours: np.ndarray, theirs: np.ndarray, window: np.ndarray
) -> Iterator[tuple[int, int, float, float, float]]:
    """Of masks, by their numbers, of two tiles that meet inside the window both tiles see: the numbers, the IoU there,
    and the intersection as a share of either whole mask."""
    (ours, our_boxes), (theirs, their_boxes) = (_inside(boxes, numbers, window) for numbers in (ours, theirs))
    low = np.maximum(our_boxes[:, None, :2], their_boxes[None, :, :2])
    high = np.minimum(our_boxes[:, None, 2:], their_boxes[None, :, 2:])
    pairs = np.argwhere((low < high).all(axis=2))
    for a, b in pairs.tolist():
        i, j = int(ours[a]), int(theirs[b])
        common = np.concatenate([low[a, b], high[a, b]])
        inter = np.count_nonzero(_part(boxes[i], crops[i], common) & _part(boxes[j], crops[j], common))
        if inter:
            seen = [
                np.count_nonzero(_part(boxes[k], crops[k], own)) for k, own in ((i, our_boxes[a]), (j, their_boxes[b]))
            ]
            whole = np.count_nonzero(crops[i]), np.count_nonzero(crops[j])
            yield i, j, inter / (seen[0] + seen[1] - inter), inter / whole[0], inter / whole[1]


def _inside(boxes: np.ndarray, numbers: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the boxes that reach into a window, and what of the boxes is inside."""
    own = boxes[numbers]
    clipped = np.concatenate([np.maximum(own[:, :2], window[:2]), np.minimum(own[:, 2:], window[2:])], axis=1)
    reach = (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
    return numbers[reach], clipped[reach]


def _part(box: np.ndarray, crop: np.ndarray, window: np.ndarray) -> np.ndarray:
    """What of a crop is in a window inside its box."""
    (x0, y0), (x1, y1) = window[:2] - box[:2], window[2:] - box[:2]
    return crop[y0:y1, x0:x1]


def _union(boxes: np.ndarray, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One box and crop of several."""
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    union = np.zeros((box[3] - box[1], box[2] - box[0]), dtype=bool)
    for own, crop in zip(boxes, crops, strict=True):
        _part(box, union, own)[...] |= crop
    return box, union
