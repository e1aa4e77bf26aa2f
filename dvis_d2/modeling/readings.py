"""The readings of one label map: candidate masks as unions of atoms, scored (NumPy, on the host).

An atom is a connected piece of the foreground whose cells share a level at every bandwidth and differ from
their neighbours inside it by less than the link threshold. A reading puts every atom into at most one
candidate, so it is one integer for each atom, -1 for "in none".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

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


@dataclass
class _Atoms:
    """Atoms and the borders between them. `cells` index the flat map; atom -1 is background.

    Attributes:
        cells, owner: (F,), the foreground's cells and the atom of each.
        area, total, squares: float64 (A,), the number of an atom's cells, the sums of their labels and
            squares.
        levels: (B, A), the mean-shift level of each atom at each bandwidth.
        p, q: (E,), 8-neighbours in different atoms, each pair once. a, b: (E,), their atoms.
        straight: the first so many of the pairs are 4-neighbours.
    """

    cells: np.ndarray
    owner: np.ndarray
    area: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    levels: np.ndarray
    p: np.ndarray
    q: np.ndarray
    a: np.ndarray
    b: np.ndarray
    straight: int


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
    link_threshold: float,
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
    atoms = _find_atoms(labels, foreground, levels, link_threshold)
    *parts, links = _join_atoms(atoms, labels, link_threshold)
    kinds, groups, maps = [], [], []
    for reading in readings:
        if reading == "linked":
            large = np.bincount(links, atoms.area) >= min_area
            found = [[np.where(large[links], links, -1)]]
        else:
            found = [
                _read_levels(reading, atoms, *level_and_parts, modes, bandwidth, min_area, crumb_ratio)
                for *level_and_parts, bandwidth in zip(atoms.levels, parts, bandwidths, strict=True)
            ]
        for same_group in found:
            maps += same_group
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

    first, second = _overlapping_pairs(members, atoms.area, area, nms_threshold)
    group_of = np.array(groups)[map_of]
    agrees = np.zeros((count, max(groups) + 1), dtype=bool)
    agrees[np.arange(count), group_of] = True
    agrees[first, group_of[second]] = True
    scores = np.maximum(0, contrast - spread) * interior * (1 + agrees.mean(1)) / 2

    order = np.argsort(-scores, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(count)
    pairs = np.stack([rank[first], rank[second]], 1)
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


def _find_atoms(labels: np.ndarray, foreground: np.ndarray, levels: np.ndarray, link_threshold: float) -> _Atoms:
    height, width = labels.shape
    # On a grid of twice the resolution the cells between two cells are set where the two are linked, so that
    # an ordinary binary routine finds components of linked cells.
    grid = np.zeros((2 * height, 2 * width), dtype=np.uint8)
    grid[::2, ::2] = foreground
    for between, low, high in (
        (grid[::2, 1:-1:2], np.s_[:, :-1], np.s_[:, 1:]),
        (grid[1:-1:2, ::2], np.s_[:-1], np.s_[1:]),
    ):
        linked = foreground[low] & foreground[high] & (np.abs(labels[low] - labels[high]) < link_threshold)
        for level in levels:
            linked &= level[low] == level[high]
        between[...] = linked
    count, components = cv2.connectedComponents(grid, connectivity=4, ltype=cv2.CV_32S)
    count -= 1

    # A margin at the right and the bottom (-2) lets neighbours be found by offsets into the flat map.
    stride = width + 1
    padded = np.full((height + 1, stride), -2, dtype=np.int32)
    padded[:height, :width] = components[::2, ::2] - 1
    padded = padded.reshape(-1)
    pairs = []
    for offset in (1, stride, stride + 1, stride - 1):
        p = np.flatnonzero(padded[:-offset] != padded[offset:])
        pairs.append(np.stack([p, p + offset]))
    straight = pairs[0].shape[1] + pairs[1].shape[1]
    p, q = np.concatenate(pairs, 1)
    a, b = padded[p], padded[q]
    real = (a != -2) & (b != -2)

    cells = np.flatnonzero(foreground)
    owner = components[::2, ::2].reshape(-1)[cells] - 1
    cell_of = np.empty(count, dtype=np.int64)
    cell_of[owner] = cells
    label = labels.reshape(-1)[cells].astype(np.float64)
    return _Atoms(
        cells=cells,
        owner=owner,
        area=np.bincount(owner, minlength=count).astype(np.float64),
        total=np.bincount(owner, label, count),
        squares=np.bincount(owner, label**2, count),
        levels=levels.reshape(len(levels), labels.size)[:, cell_of],
        p=(p - p // stride)[real],
        q=(q - q // stride)[real],
        a=a[real],
        b=b[real],
        straight=int(real[:straight].sum()),
    )


def _join_atoms(atoms: _Atoms, labels: np.ndarray, link_threshold: float) -> list[np.ndarray]:
    """Components of 4-neighbouring atoms: of one level, for each bandwidth, and last of linked neighbours.

    Each is (A,); the numbers of one do not occur in another.
    """
    a, b = atoms.a[: atoms.straight], atoms.b[: atoms.straight]
    both = (a >= 0) & (b >= 0)
    a, b, p, q = a[both], b[both], atoms.p[: atoms.straight][both], atoms.q[: atoms.straight][both]
    flat = labels.reshape(-1)
    joined = np.stack([level[a] == level[b] for level in atoms.levels] + [np.abs(flat[p] - flat[q]) < link_threshold])
    # One graph in which each has its own copy of the atoms: building graphs is what takes the time.
    copy, edge = np.nonzero(joined)
    count = len(atoms.area)
    nodes = len(joined) * count
    edges = (np.ones(len(edge), dtype=np.int8), (a[edge] + copy * count, b[edge] + copy * count))
    components = connected_components(sparse.coo_matrix(edges, shape=(nodes, nodes)), directed=False)[1]
    return list(components.reshape(len(joined), count))


def _read_levels(
    reading: str,
    atoms: _Atoms,
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
    large = area >= np.maximum(min_area, crumb_ratio * largest[level_of_part])
    keep = large[parts]
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
    members: np.ndarray, atoms: _Atoms, labels: np.ndarray, values: np.ndarray
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


def _overlapping_pairs(
    members: np.ndarray, atom_area: np.ndarray, area: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different candidates with an IoU above the threshold."""
    rows, columns = np.nonzero(members >= 0)
    shape = (len(area), len(atom_area))
    candidate = members[rows, columns]
    belongs = sparse.csr_matrix((np.ones(len(rows)), (candidate, columns)), shape=shape)
    weighted = sparse.csr_matrix((atom_area[columns], (candidate, columns)), shape=shape)
    inter = (weighted @ belongs.T).tocoo()
    first, second = inter.row, inter.col
    iou = inter.data / (area[first] + area[second] - inter.data)
    above = (iou > threshold) & (first != second)
    return first[above], second[above]


def _cells_of(
    kept: np.ndarray, members: np.ndarray, map_of: np.ndarray, atoms: _Atoms, size: int
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
