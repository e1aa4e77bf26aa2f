"""Atoms: the small connected pieces of a label map's foreground of which every reading is a union (NumPy).

An atom is a connected piece of the foreground whose cells share a level at every bandwidth and differ from
their neighbours inside it by less than the least link threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components


@dataclass
class Atoms:
    """Atoms and the borders between them. `cells` index the flat map; atom -1 is background.

    Attributes:
        cells, owner: (F,), the foreground's cells and the atom of each.
        area, total, squares: float64 (A,), the number of an atom's cells, the sums of their labels and
            squares.
        rows, columns, radii: float64 (A,), the sums of its cells' rows, columns and rows² + columns².
        levels: (B, A), the mean-shift level of each atom at each bandwidth.
        p, q: (E,), 8-neighbours in different atoms, each pair once. a, b: (E,), their atoms.
        straight: the first so many of the pairs are 4-neighbours.
    """

    cells: np.ndarray
    owner: np.ndarray
    area: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    radii: np.ndarray
    levels: np.ndarray
    p: np.ndarray
    q: np.ndarray
    a: np.ndarray
    b: np.ndarray
    straight: int


def find_atoms(labels: np.ndarray, foreground: np.ndarray, levels: np.ndarray, link_threshold: float) -> Atoms:
    """Arguments as for `readings.read_candidates`; at least one cell must be foreground."""
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
    row, column = np.divmod(cells, width)
    return Atoms(
        cells=cells,
        owner=owner,
        area=np.bincount(owner, minlength=count).astype(np.float64),
        total=np.bincount(owner, label, count),
        squares=np.bincount(owner, label**2, count),
        rows=np.bincount(owner, row, count),
        columns=np.bincount(owner, column, count),
        radii=np.bincount(owner, row * row + column * column, count),
        levels=levels.reshape(len(levels), labels.size)[:, cell_of],
        p=(p - p // stride)[real],
        q=(q - q // stride)[real],
        a=a[real],
        b=b[real],
        straight=int(real[:straight].sum()),
    )


def join_atoms(
    atoms: Atoms, labels: np.ndarray, link_thresholds: Sequence[float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Components of 4-neighbouring atoms: of one level, for each bandwidth; and of linked ones, for each threshold.

    Each is (A,); the numbers of one do not occur in another.
    """
    a, b = atoms.a[: atoms.straight], atoms.b[: atoms.straight]
    both = (a >= 0) & (b >= 0)
    a, b, p, q = a[both], b[both], atoms.p[: atoms.straight][both], atoms.q[: atoms.straight][both]
    flat = labels.reshape(-1)
    step = np.abs(flat[p] - flat[q])
    joined = [level[a] == level[b] for level in atoms.levels] + [step < threshold for threshold in link_thresholds]
    # One graph in which each has its own copy of the atoms: building graphs is what takes the time.
    copy, edge = np.nonzero(np.stack(joined))
    count = len(atoms.area)
    nodes = len(joined) * count
    edges = (np.ones(len(edge), dtype=np.int8), (a[edge] + copy * count, b[edge] + copy * count))
    components = connected_components(sparse.coo_matrix(edges, shape=(nodes, nodes)), directed=False)[1]
    components = list(components.reshape(len(joined), count))
    return components[: len(atoms.levels)], components[len(atoms.levels) :]
