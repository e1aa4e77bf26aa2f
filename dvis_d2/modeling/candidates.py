"""The candidate masks of one label map as unions of superpixels, scored (NumPy, on the host).

Each source of candidates, at each bandwidth or link threshold, puts every superpixel into at most one candidate, so it
is one integer for each superpixel, -1 for "in none".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .masks import surviving
from .superpixels import Superpixels, find_superpixels, join_superpixels

SOURCES = ("levels", "parts", "linked")


@dataclass
class Candidates:
    """K scored candidates of one image, best first; a cell is candidate * h * w + row * w + column."""

    values: np.ndarray  # float32 (K,), mean labels
    scores: np.ndarray  # float32 (K,)
    inside: np.ndarray  # int64, the cells of the masks
    ring: np.ndarray  # int64, the cells just around them (8 neighbors); one may occur more than once


def find_candidates(
    labels: np.ndarray,
    foreground: np.ndarray,
    levels: np.ndarray,
    *,
    sources: Sequence[str],
    min_area: int,
    min_part_ratio: float,
    link_thresholds: Sequence[float],
    nms_threshold: float,
    max_candidates: int,
) -> Candidates:
    """Candidates of one image; `grouping.group_label_map` explains the options and the score.

    `labels` are float32 (h, w), finite, `foreground` bool (h, w), `levels` int (B, h, w), those at each bandwidth.
    """
    if not foreground.any():
        nothing, nowhere = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        return Candidates(nothing, nothing, nowhere, nowhere)
    superpixels = find_superpixels(labels, foreground, levels, min(link_thresholds))
    parts, links = join_superpixels(superpixels, labels, link_thresholds)
    maps, parts_of = [], []
    for source in sources:
        if source == "linked":
            maps += [np.where(_credible(link, superpixels, min_area), link, -1) for link in links]
            parts_of += list(links)
        else:
            for level, part in zip(superpixels.levels, parts, strict=True):
                keep = _credible(part, superpixels, min_area) & _large(part, level, superpixels, min_part_ratio)
                maps.append(np.where(keep, part if source == "parts" else level, -1))
                parts_of.append(part)

    # One candidate for each pair of map and number; `members` (R, A) holds it, or -1.
    members, map_of = _number_candidates(np.stack(maps))
    count = len(map_of)
    is_member = members >= 0
    member, superpixel = members[is_member], np.nonzero(is_member)[1]  # each candidate with each of its superpixels
    area, total, squares = (
        np.bincount(member, quantity[superpixel], count)
        for quantity in (superpixels.area, superpixels.total, superpixels.squares)
    )
    values = total / area
    spread = np.sqrt(np.maximum(squares / area - values**2, 0))
    contrast, border = _contrast(members, superpixels, labels, values)
    interior = 1 - border / (4 * area)
    several, wholeness = _wholeness(member, superpixel, np.stack(parts_of)[is_member], superpixels, count)

    # all ordered pairs of different candidates that share cells, and how many they share
    belongs = sparse.csr_matrix((np.ones(len(member)), (member, superpixel)), shape=(count, len(superpixels.area)))
    shared = (belongs.multiply(superpixels.area).tocsr() @ belongs.T).tocoo()
    first, second, inter = (x[shared.row != shared.col] for x in (shared.row, shared.col, shared.data))
    union = area[first] + area[second] - inter
    alike = (inter > nms_threshold * union) | (inter == union)
    within = several[second] & (inter == area[first]) & (area[first] < area[second])
    piece, whole = first[within], second[within]
    agrees = np.zeros((count, len(maps)))
    agrees[np.arange(count), map_of] = 1
    agrees[first[alike], map_of[second[alike]]] = 1
    np.maximum.at(agrees, (whole, map_of[piece]), wholeness[whole])
    np.maximum.at(agrees, (piece, map_of[whole]), 1 - wholeness[whole])
    belonging = np.zeros(count)
    np.maximum.at(belonging, piece, wholeness[whole])
    scores = np.maximum(0, contrast - spread) * interior * (1 + agrees.mean(1)) / 2 * wholeness * (1 - belonging / 2)

    order = np.argsort(-scores, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(count)
    pairs = np.stack([rank[first[alike]], rank[second[alike]]], 1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    kept = order[surviving(count, pairs.tolist())[:max_candidates]]

    inside, ring = _cells_of(kept, members, map_of, superpixels, labels.size)
    return Candidates(values[kept].astype(np.float32), scores[kept].astype(np.float32), inside, ring)


def _credible(parts: np.ndarray, superpixels: Superpixels, min_area: int) -> np.ndarray:
    """Which superpixels' parts have `min_area` cells or stand alone: specks beside other foreground are what a soft
    border between two labels leaves."""
    alone = np.ones(parts.max() + 1, dtype=bool)
    a, b = (parts[side] for side in superpixels.links[:2])
    alone[a[a != b]] = alone[b[a != b]] = False
    return (alone | (np.bincount(parts, superpixels.area) >= min_area))[parts]


def _large(parts: np.ndarray, level: np.ndarray, superpixels: Superpixels, min_ratio: float) -> np.ndarray:
    """Which superpixels' parts have at least `min_ratio` of the area of their level's largest part."""
    area = np.bincount(parts, superpixels.area)[parts]
    largest = np.zeros(level.max() + 1)
    np.maximum.at(largest, level, area)
    return area >= min_ratio * largest[level]


def _number_candidates(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (R, A) that name a group within a map become numbers over all; and the map (K,) of each."""
    stride = maps.max(initial=-1) + 1
    keys = maps + stride * np.arange(len(maps))[:, None]
    ids, number = np.unique(keys[maps >= 0], return_inverse=True)
    members = np.full(maps.shape, -1, dtype=np.int64)
    members[maps >= 0] = number
    return members, ids // max(1, stride)


def _contrast(
    members: np.ndarray, superpixels: Superpixels, labels: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean capped distance of the outer neighbors' labels from the value; number of pairs at the border."""
    flat = labels.reshape(-1)
    with_background = np.concatenate([members, np.full((len(members), 1), -1)], 1)  # superpixel -1 is the last column
    total, pairs = np.zeros(len(values)), np.zeros(len(values))
    near = np.s_[: superpixels.straight]
    ours, theirs = with_background[:, superpixels.a[near]], with_background[:, superpixels.b[near]]
    differ = ours != theirs
    for mine, outer in ((ours, superpixels.q[near]), (theirs, superpixels.p[near])):
        row, column = np.nonzero(differ & (mine >= 0))
        candidate = mine[row, column]
        distance = np.minimum(1, np.abs(flat[outer[column]] - values[candidate]))
        total += np.bincount(candidate, distance, len(values))
        pairs += np.bincount(candidate, minlength=len(values))
    # A mask without a border fills the image: nothing speaks against it.
    return np.where(pairs > 0, total / np.maximum(pairs, 1), 1.0), pairs


def _wholeness(
    member: np.ndarray, superpixel: np.ndarray, parts: np.ndarray, superpixels: Superpixels, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates are in several parts (`parts` numbers each member's), and how far each looks like one object, in
    [0, 1]: 1 for those in one part."""
    stride = parts.max(initial=0) + 1
    ids, part = np.unique(member * stride + parts, return_inverse=True)
    owner = ids // stride

    def mean_square_radius(number: np.ndarray, size: int) -> np.ndarray:
        sums = (superpixels.area, superpixels.rows, superpixels.columns, superpixels.radii)
        area, row, column, radius = (np.bincount(number, quantity[superpixel], size) for quantity in sums)
        return radius / area - (row / area) ** 2 - (column / area) ** 2 + 1 / 6  # 1 / 6: a cell's own extent

    of_parts = np.bincount(owner, mean_square_radius(part, len(ids)), count)
    ratio = np.minimum(1, of_parts / mean_square_radius(member, count))
    several = np.bincount(owner, minlength=count) > 1
    return several, np.where(several, ratio**4 / (ratio**4 + (1 - ratio) ** 4), 1.0)


def _cells_of(
    kept: np.ndarray, members: np.ndarray, map_of: np.ndarray, superpixels: Superpixels, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells inside the kept candidates and in the ring around them, as row * size + cell."""
    inside, ring = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    row_of = np.full(len(map_of) + 1, -1, dtype=np.int64)  # candidate -1 is the last entry
    row_of[kept] = np.arange(len(kept))
    for number in np.unique(map_of[kept]):
        row = np.append(row_of[members[number]], -1)  # superpixel -1, the background, too
        of_cell, of_p, of_q = row[superpixels.owner], row[superpixels.a], row[superpixels.b]
        inside.append((of_cell * size + superpixels.cells)[of_cell >= 0])
        for mine, theirs, outer in ((of_p, of_q, superpixels.q), (of_q, of_p, superpixels.p)):
            ring.append((mine * size + outer)[(mine >= 0) & (mine != theirs)])
    return np.concatenate(inside), np.concatenate(ring)
