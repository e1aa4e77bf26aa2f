"""Superpixels: the small connected pieces of a label map's foreground of which every candidate is a union (NumPy).

A superpixel is a connected piece of the foreground whose cells share a level at every bandwidth and differ from their
neighbors inside it by less than the least link threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components


@dataclass
class Superpixels:
    """Superpixels and the borders between them. Cells index the flat map; superpixel -1 is background."""

    cells: np.ndarray  # (F,), the foreground's
    owner: np.ndarray  # (F,), the superpixel of each
    levels: np.ndarray  # (B, A), the mean-shift level at each bandwidth
    p: np.ndarray  # (E,), with q the cells that are 8-neighbors in different superpixels, each pair once
    q: np.ndarray
    a: np.ndarray  # (E,), the superpixels of p
    b: np.ndarray  # and of q
    straight: int  # the first so many of the pairs are 4-neighbors
    area: np.ndarray  # float64 (A,), number of cells; then the sums over them
    total: np.ndarray  # of their labels,
    squares: np.ndarray  # the squares of these,
    rows: np.ndarray  # their rows,
    columns: np.ndarray  # columns,
    radii: np.ndarray  # and rows² + columns²

    @property
    def links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """a, b, p, q of the pairs of 4-neighbors that are both foreground."""
        a, b, p, q = (x[: self.straight] for x in (self.a, self.b, self.p, self.q))
        both = (a >= 0) & (b >= 0)
        return a[both], b[both], p[both], q[both]


def find_superpixels(
    labels: np.ndarray, foreground: np.ndarray, levels: np.ndarray, link_threshold: float
) -> Superpixels:
    """Arguments as `candidates.find_candidates`; at least one cell is foreground."""
    height, width = labels.shape
    # On a grid of twice the resolution the cells between two cells are set where the two are linked, so that an
    # ordinary binary routine finds components of linked cells.
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

    # A margin at the right and the bottom (-2) lets neighbors be found by offsets into the flat map.
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
    straight = int(real[:straight].sum())
    p, q, a, b = (p - p // stride)[real], (q - q // stride)[real], a[real], b[real]

    cells = np.flatnonzero(foreground)
    owner = components[::2, ::2].reshape(-1)[cells] - 1
    cell_of = np.empty(count, dtype=np.int64)
    cell_of[owner] = cells
    levels = levels.reshape(len(levels), labels.size)[:, cell_of]
    label = labels.reshape(-1)[cells].astype(np.float64)
    row, column = np.divmod(cells, width)
    summands = np.ones(len(cells)), label, label**2, row, column, row * row + column * column
    sums = (np.bincount(owner, summand, count) for summand in summands)
    return Superpixels(cells, owner, levels, p, q, a, b, straight, *sums)


def join_superpixels(
    superpixels: Superpixels, labels: np.ndarray, link_thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Components of 4-neighboring superpixels: of one level, for each bandwidth (B, A); and of linked ones, for each
    threshold (T, A). The numbers of one row do not occur in another."""
    a, b, p, q = superpixels.links
    flat = labels.reshape(-1)
    step = np.abs(flat[p] - flat[q])
    joined = [level[a] == level[b] for level in superpixels.levels]
    joined += [step < threshold for threshold in link_thresholds]
    # One graph in which each has its own copy of the superpixels: building graphs is what takes the time.
    copy, edge = np.nonzero(np.stack(joined))
    count = len(superpixels.area)
    edges = (np.ones(len(edge), dtype=np.int8), (a[edge] + copy * count, b[edge] + copy * count))
    graph = sparse.coo_matrix(edges, shape=(len(joined) * count,) * 2)
    components = connected_components(graph, directed=False)[1].reshape(len(joined), count)
    return components[: len(superpixels.levels)], components[len(superpixels.levels) :]
