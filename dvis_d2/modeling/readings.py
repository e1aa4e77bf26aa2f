"""The readings of one label map: candidate masks as unions of atoms, scored (NumPy, on the host).

A reading puts every atom into at most one candidate, so it is one integer for each atom, -1 for "in none".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .atoms import Atoms, find_atoms, join_atoms
from .masks import surviving

READINGS = ("levels", "parts", "merged", "linked")


@dataclass
class Candidates:
    """K scored candidates of one image, best first.

    Attributes:
        values, scores: float32 (K,). kinds: int64 (K,), index into `READINGS`.
        inside, ring: int64, the cells of the masks and those just around them (8 neighbours), each as
            candidate * h * w + row * w + column. A cell of the ring may occur more than once.
    """

    values: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    inside: np.ndarray
    ring: np.ndarray


def read_candidates(
    labels: np.ndarray,
    foreground: np.ndarray,
    levels: np.ndarray,
    modes: np.ndarray,
    *,
    bandwidths: Sequence[float],
    readings: Sequence[str],
    min_area: int,
    crumb_ratio: float,
    link_thresholds: Sequence[float],
    nms_threshold: float,
    max_candidates: int,
) -> Candidates:
    """Reads one image; `grouping.group_label_map` documents the options and the score.

    Args:
        labels: float32 (h, w), finite.
        foreground: bool (h, w).
        levels: int (B, h, w), the index into `modes` of a foreground cell's mode at each bandwidth.
        modes: (M,), ascending among those of this image and one bandwidth.
    """
    if not foreground.any():
        nothing, nowhere = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        return Candidates(values=nothing, scores=nothing, kinds=nowhere, inside=nowhere, ring=nowhere)
    atoms = find_atoms(labels, foreground, levels, min(link_thresholds))
    parts, links = join_atoms(atoms, labels, link_thresholds)
    kinds, groups, maps, parts_of = [], [], [], []
    for reading in readings:
        if reading == "linked":
            found = [(link, [np.where(_credible(link, atoms, min_area)[link], link, -1)]) for link in links]
        else:
            found = [
                (part, _read_levels(reading, atoms, level, part, modes, bandwidth, min_area, crumb_ratio))
                for level, part, bandwidth in zip(atoms.levels, parts, bandwidths, strict=True)
            ]
        for part, same_group in found:
            maps += same_group
            parts_of += [part] * len(same_group)
            kinds += [READINGS.index(reading)] * len(same_group)
            groups += [max(groups, default=-1) + 1] * len(same_group)

    members, map_of = _number_candidates(np.stack(maps))
    count = len(map_of)
    # One candidate for each pair of map and number; `members` (R, A) holds it, or -1.
    area = _sums(members, atoms.area, count)
    values = _sums(members, atoms.total, count) / area
    spread = np.sqrt(np.maximum(_sums(members, atoms.squares, count) / area - values**2, 0))
    contrast, border = _contrast(members, atoms, labels, values)
    interior = 1 - border / (4 * area)

    several, wholeness = _wholeness(members, np.stack(parts_of), atoms, count)

    first, second, inter = _intersections(members, atoms.area, count)
    alike = inter > nms_threshold * (area[first] + area[second] - inter)
    within = several[second] & (inter == area[first]) & (area[first] < area[second])
    piece, whole = first[within], second[within]
    group_of = np.array(groups)[map_of]
    agrees = np.zeros((count, max(groups) + 1))
    agrees[np.arange(count), group_of] = 1
    agrees[first[alike], group_of[second[alike]]] = 1
    np.maximum.at(agrees, (whole, group_of[piece]), wholeness[whole])
    np.maximum.at(agrees, (piece, group_of[whole]), 1 - wholeness[whole])
    belongs = np.zeros(count)
    np.maximum.at(belongs, piece, wholeness[whole])
    scores = np.maximum(0, contrast - spread) * interior * (1 + agrees.mean(1)) / 2 * wholeness * (1 - belongs / 2)

    order = np.argsort(-scores, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(count)
    pairs = np.stack([rank[first[alike]], rank[second[alike]]], 1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    kept = order[surviving(count, pairs.tolist())[:max_candidates]]

    inside, ring = _cells_of(kept, members, map_of, atoms, labels.size)
    return Candidates(
        values=values[kept].astype(np.float32),
        scores=scores[kept].astype(np.float32),
        kinds=np.array(kinds, dtype=np.int64)[map_of[kept]],
        inside=inside,
        ring=ring,
    )


def _read_levels(
    reading: str,
    atoms: Atoms,
    level: np.ndarray,
    parts: np.ndarray,
    modes: np.ndarray,
    bandwidth: float,
    min_area: int,
    crumb_ratio: float,
) -> list[np.ndarray]:
    """The reading "levels", "parts" or "merged" at one bandwidth, from each atom's level and part."""
    ids, level = np.unique(level, return_inverse=True)
    area = np.bincount(parts, atoms.area)
    level_of_part = np.zeros(len(area), dtype=np.int64)
    level_of_part[parts] = level
    largest = np.zeros(len(ids))
    np.maximum.at(largest, level_of_part, area)
    credible = _credible(parts, atoms, min_area) & (area >= crumb_ratio * largest[level_of_part])
    keep = credible[parts]
    if reading == "parts":
        return [np.where(keep, parts, -1)]
    if reading == "levels":
        return [np.where(keep, level, -1)]
    # Pairs of neighbours overlap, so those that start at even and at odd levels are two maps.
    close = np.append(np.diff(modes[ids]) < bandwidth, False)
    merged = []
    for parity in (0, 1):
        start = level - (level - parity) % 2
        merged.append(np.where(keep & (start >= 0) & close[start], start, -1))
    return merged


def _credible(parts: np.ndarray, atoms: Atoms, min_area: int) -> np.ndarray:
    """Which parts (numbered for each atom) have `min_area` cells or stand alone: specks beside other foreground are
    what a soft border between two labels leaves."""
    alone = np.ones(parts.max() + 1, dtype=bool)
    a, b = atoms.a[: atoms.straight], atoms.b[: atoms.straight]
    both = (a >= 0) & (b >= 0)
    a, b = parts[a[both]], parts[b[both]]
    alone[a[a != b]] = alone[b[a != b]] = False
    return alone | (np.bincount(parts, atoms.area) >= min_area)


def _number_candidates(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (R, A) that name a group within a map become numbers over all; and the map (K,) of each."""
    stride = maps.max(initial=-1) + 1
    keys = maps + stride * np.arange(len(maps))[:, None]
    ids, number = np.unique(keys[maps >= 0], return_inverse=True)
    members = np.full(maps.shape, -1, dtype=np.int64)
    members[maps >= 0] = number
    return members, ids // max(1, stride)


def _sums(members: np.ndarray, quantity: np.ndarray, count: int) -> np.ndarray:
    rows, columns = np.nonzero(members >= 0)
    return np.bincount(members[rows, columns], quantity[columns], count)


def _contrast(
    members: np.ndarray, atoms: Atoms, labels: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean capped distance of the outer neighbours' labels from the value; number of pairs at the border."""
    flat = labels.reshape(-1)
    with_background = np.concatenate([members, np.full((len(members), 1), -1)], 1)  # atom -1 is the last column
    total, pairs = np.zeros(len(values)), np.zeros(len(values))
    near = np.s_[: atoms.straight]
    ours, theirs = with_background[:, atoms.a[near]], with_background[:, atoms.b[near]]
    differ = ours != theirs
    for mine, outer in ((ours, atoms.q[near]), (theirs, atoms.p[near])):
        row, column = np.nonzero(differ & (mine >= 0))
        candidate = mine[row, column]
        distance = np.minimum(1, np.abs(flat[outer[column]] - values[candidate]))
        total += np.bincount(candidate, distance, len(values))
        pairs += np.bincount(candidate, minlength=len(values))
    # A mask without a border fills the image: nothing speaks against it.
    return np.where(pairs > 0, total / np.maximum(pairs, 1), 1.0), pairs


def _wholeness(members: np.ndarray, parts: np.ndarray, atoms: Atoms, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates are in several parts (parts (R, A) numbers each atom's), and how far each looks like one
    object, in [0, 1]: 1 for those in one part."""
    rows, columns = np.nonzero(members >= 0)
    candidate = members[rows, columns]
    stride = parts.max() + 1
    ids, part = np.unique(candidate * stride + parts[rows, columns], return_inverse=True)
    owner = ids // stride

    def mean_square_radius(number: np.ndarray, size: int) -> np.ndarray:
        sums = (atoms.area, atoms.rows, atoms.columns, atoms.radii)
        area, row, column, radius = (np.bincount(number, quantity[columns], size) for quantity in sums)
        return radius / area - (row / area) ** 2 - (column / area) ** 2 + 1 / 6  # 1 / 6: a cell's own extent

    of_parts = np.bincount(owner, mean_square_radius(part, len(ids)), count)
    ratio = np.minimum(1, of_parts / mean_square_radius(candidate, count))
    several = np.bincount(owner, minlength=count) > 1
    return several, np.where(several, ratio**4 / (ratio**4 + (1 - ratio) ** 4), 1.0)


def _intersections(members: np.ndarray, atom_area: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ordered pairs of different candidates that share cells, and how many they share."""
    rows, columns = np.nonzero(members >= 0)
    shape = (count, len(atom_area))
    candidate = members[rows, columns]
    belongs = sparse.csr_matrix((np.ones(len(rows)), (candidate, columns)), shape=shape)
    weighted = sparse.csr_matrix((atom_area[columns], (candidate, columns)), shape=shape)
    inter = (weighted @ belongs.T).tocoo()
    different = inter.row != inter.col
    return inter.row[different], inter.col[different], inter.data[different]


def _cells_of(
    kept: np.ndarray, members: np.ndarray, map_of: np.ndarray, atoms: Atoms, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cells inside the kept candidates and in the ring around them, as row * size + cell."""
    inside, ring = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    row_of = np.full(len(map_of) + 1, -1, dtype=np.int64)  # candidate -1 is the last entry
    row_of[kept] = np.arange(len(kept))
    for reading in np.unique(map_of[kept]):
        row = np.append(row_of[members[reading]], -1)  # atom -1, the background, too
        owner_row = row[atoms.owner]
        chosen = owner_row >= 0
        inside.append(owner_row[chosen] * size + atoms.cells[chosen])
        row_p, row_q = row[atoms.a], row[atoms.b]
        for mine, theirs, outer in ((row_p, row_q, atoms.q), (row_q, row_p, atoms.p)):
            chosen = (mine >= 0) & (mine != theirs)
            ring.append(mine[chosen] * size + outer[chosen])
    return np.concatenate(inside), np.concatenate(ring)
