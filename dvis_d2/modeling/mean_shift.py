"""Exact mean shift of scalars without iterations (paper, section 4, "Discretization").

Mean shift climbs the kernel density estimate, and in one dimension no climb jumps over a valley: the basins are the
intervals between the density's local minima. So: bin the values -> smooth the histogram -> find peaks and valleys ->
look up which interval a value lies in (docs/guide/grouping.md).

Shapes: P values, S sets of values (one for each image and bandwidth), M modes, C occupied cells of bins.
Needs NumPy alone, takes arrays and tensors, and works on the host.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import on_host

# A bin is sigma / 16. Extrema closer than a bin are missed; they belong to modes that are about to merge.
_BINS_PER_SIGMA = 16
# Bins are allocated in cells, and only around values, so a wide range costs no memory. The kernel is cut at 7.5 sigma
# (6e-13 of its height), less than a cell, so an empty cell separates the values on its two sides.
_CELL = 8 * _BINS_PER_SIGMA
_KERNEL_RADIUS = _CELL - 8
_FAR = 2.0**60  # bins from 0: beyond, different values are more than a cell apart
_CHUNK = 4096  # cells that are smoothed at once: 12 MiB
_MIN_MASS = 2.0**-32  # of a value, as a share of its set's largest: none is without density
# A valley shallower than this share of the lower peak beside it is rounding: a flat density has hundreds.
_MIN_DEPTH = 1e-5


def mean_shift_1d(values: Any, bandwidth: float, *, weights: Any = None) -> tuple[Any, Any]:
    """Mean shift of one set of scalars, float (P,), with a Gaussian kernel of sigma = bandwidth / 3. NaN and infinities
    are ignored, and so are values whose weight, how much they count in the density, is not positive and finite. The
    paper uses the bandwidths 0.9 and 0.4.

    Returns:
        modes (M,) ascending, where the density's local maxima are, to about 1e-4 sigma, float32 for values of half
        precision, else the dtype of `values`, none where no value is used; and assignment int64 (P,), in [0, M), the
        index of the mode a value climbs to, -1 for an ignored value. Arrays, or tensors on the device of `values`.

    All arithmetic is float64; no gradient flows. Deterministic. A level stretch of the density (evenly spaced values)
    counts as one mode somewhere on it. ValueError where an argument does not fit.
    """
    modes, _, assignment = mean_shift_1d_batched(values, None, [bandwidth], weights=weights)
    return modes, assignment


@on_host
def mean_shift_1d_batched(
    values: Any, segment_ids: Any, bandwidths: Sequence[float], *, weights: Any = None
) -> tuple[Any, Any, Any]:
    """Mean shift of S independent sets of scalars at once, such as all images of a batch at all bandwidths: values
    float (P,) in any order, the set of each, int64 (P,) in [0, S), the S sets' bandwidths, and the values' weights.

    Returns:
        modes (M,), ordered by set and ascending within a set; mode_segments int64 (M,), the set of each mode;
        assignment int64 (P,), an index into `modes`, or -1. A set's result does not depend on the other sets.

    Memory is O(P) whatever the range: at most about 8 KiB for each value, where all lie far apart.
    """
    if values.ndim != 1 or values.dtype.kind != "f":
        raise ValueError(f"values must be floats (P,), got {values.dtype} {values.shape}")
    segment_ids = np.zeros(values.shape, dtype=np.int64) if segment_ids is None else segment_ids
    for name, array in (("segment_ids", segment_ids), ("weights", weights)):
        if array is not None and array.shape != values.shape:
            raise ValueError(f"{name} must be {values.shape} like values, got {array.shape}")
    for bandwidth in bandwidths:
        if not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth must be a positive number, got {bandwidth}")
    usable = np.isfinite(values)
    if weights is not None:
        usable &= np.isfinite(weights) & (weights > 0)
    index = np.flatnonzero(usable)
    assignment = np.full(values.shape, -1, dtype=np.int64)
    mode_dtype = np.promote_types(values.dtype, np.float32)
    if len(index) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty.astype(mode_dtype), empty, assignment

    segments = segment_ids[index]
    bin_widths = np.array(bandwidths, dtype=np.float64) / (3 * _BINS_PER_SIGMA)
    values = values[index].astype(np.float64)
    with np.errstate(over="ignore"):
        position = values / bin_widths[segments]
    cell = np.floor(position / _CELL)
    if len(far := np.flatnonzero(np.abs(position) > _FAR)):  # cells without numbers: one for each value
        rank = np.unique(values[far], return_inverse=True)[1].astype(np.float64) + 1
        rank = np.where(values[far] < 0, rank - rank.max() - 1, rank)
        cell[far] = np.sign(rank) * _FAR * (1 + np.abs(rank) * 2.0**-40)
        position[far] = cell[far] * _CELL
    point_slot, slot, cell_segments, cell_values = _allocate_cells(cell, segments, len(bandwidths))
    # In units of bins, on an axis on which cells without values are left out and the sets follow each other.
    position = point_slot * _CELL + np.clip(position - cell * _CELL, 0, _CELL)

    mass = np.ones_like(position)
    if weights is not None:  # over the largest of their set
        mass = weights[index].astype(np.float64)
        largest = np.zeros(len(bandwidths))
        np.maximum.at(largest, segments, mass)
        mass = np.maximum(mass / largest[segments], _MIN_MASS)
    density = _density(position, mass, int(slot[-1]) + 2)
    peaks, valleys = _drop_shallow(*_extrema(density))

    basin = np.searchsorted(valleys, position)
    inhabited = np.zeros(len(peaks), dtype=bool)
    inhabited[basin] = True
    peaks = peaks[inhabited]
    assignment[index] = (np.cumsum(inhabited) - 1)[basin]

    # The nearest cell, not the one that contains the mode: a mode may lie on the very edge of its cell.
    nearest = np.searchsorted((slot[1:] + slot[:-1] + 1) / 2, peaks / _CELL)
    mode_segments = cell_segments[nearest]
    with np.errstate(over="ignore"):
        modes = (peaks + (cell_values[nearest] - slot[nearest]) * _CELL) * bin_widths[mode_segments]
    if len(far):
        modes[assignment[index[far]]] = values[far]
    most = np.finfo(mode_dtype).max  # of which a mode of the largest values may be a rounding error above
    return np.clip(modes, -most, most).astype(mode_dtype), mode_segments, assignment


def _allocate_cells(
    cell: np.ndarray, segments: np.ndarray, num_segments: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gives every occupied cell a slot on one axis; neighbors stay neighbors, wider gaps shrink to one slot.

    Returns each value's slot int64 (P,), and for each occupied cell its slot int64 (C,), ascending from 1, its set, and
    its number on the set's own axis.
    """
    low, high = cell.min(), cell.max()
    width = high - low + 1
    if width * num_segments <= 4 * len(cell) + 1024:
        width = int(width)
        key = segments * width + (cell - low).astype(np.int64)
        occupied = np.zeros(num_segments * width, dtype=bool)
        occupied[key] = True
        point_to_cell = (np.cumsum(occupied) - 1)[key]
        cell_segments, cell_values = np.divmod(np.flatnonzero(occupied), width)
        cell_values = cell_values + low
    else:  # too wide for a table: sort instead
        order = np.lexsort((cell, segments))
        first = np.ones(len(cell), dtype=bool)
        first[1:] = (np.diff(cell[order]) != 0) | (np.diff(segments[order]) != 0)
        point_to_cell = np.empty_like(order)
        point_to_cell[order] = np.cumsum(first) - 1
        cell_segments, cell_values = segments[order][first], cell[order][first]
    adjacent = (np.diff(cell_segments) == 0) & (np.diff(cell_values) == 1)
    slot = 1 + np.concatenate([[0], np.cumsum(np.where(adjacent, 1, 2))])
    return slot[point_to_cell], slot, cell_segments, cell_values


def _density(position: np.ndarray, mass: np.ndarray, num_slots: int) -> np.ndarray:
    """Gaussian kernel density estimate at the bins' centers, float64 (num_slots * _CELL,), unnormalized.

    Each value is shared among its three nearest bins with Lagrange's weights, which keep its mass, mean and spread, so
    the binned density errs in the third order of a bin only.
    """
    nearest = np.rint(position)
    offset = position - nearest
    nearest = nearest.astype(np.int64)
    half_square, half_offset = mass * offset**2 / 2, mass * offset / 2
    left, right = half_square - half_offset, half_square + half_offset
    # One free slot before and one after, for the kernel's reach.
    histogram = np.zeros((num_slots + 2) * _CELL)
    for shift, share in ((-1, left), (0, mass - left - right), (1, right)):
        histogram += np.bincount(nearest + (_CELL + shift), share, len(histogram))

    # The convolution as one matrix product: a cell's density from the bins of the cell and of its two neighbors.
    distance = np.arange(1 - 2 * _CELL, 2 * _CELL, dtype=np.float64)
    kernel = np.exp(-0.5 * (distance / _BINS_PER_SIGMA) ** 2)
    kernel[np.abs(distance) > _KERNEL_RADIUS] = 0
    windows = np.lib.stride_tricks.sliding_window_view
    kernel = windows(kernel, _CELL)[:, ::-1].copy()  # (3 * _CELL, _CELL), the source's bin by the target's
    neighborhoods = windows(histogram, 3 * _CELL)[::_CELL]  # a view; only a chunk at a time becomes a copy
    chunks = range(0, len(neighborhoods), _CHUNK)
    density = np.concatenate([np.ascontiguousarray(neighborhoods[k : k + _CHUNK]) @ kernel for k in chunks]).reshape(-1)
    # The weights' negative lobes may show where the kernel is cut; there the density is nil.
    return np.maximum(density, 0, out=density)


def _extrema(density: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the peaks (M,) and of the valleys between them (M-1,), in bins; the density at both."""
    slope = np.diff(density)
    steps = np.flatnonzero(slope)
    rising = slope[steps] > 0
    turns = np.flatnonzero(rising[1:] != rising[:-1])
    before, after = steps[turns], steps[turns + 1]
    center = (before + 1 + after) // 2

    a, b, value, d, e = (density[center + shift] for shift in range(-2, 3))
    gradient = (8 * (d - b) - (e - a)) / 12
    curvature = (16 * (b + d) - (a + e) - 30 * value) / 12
    skew = (e - 2 * d + 2 * b - a) / 2
    offset = np.zeros_like(gradient)
    for _ in range(3):  # Newton's steps to the zero of the gradient, expanded about the bin
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = (gradient + offset * (curvature + offset * skew / 2)) / (curvature + offset * skew)
        offset = np.clip(offset - np.nan_to_num(step, nan=0.0, posinf=0.0, neginf=0.0), -0.5, 0.5)
    # Where the density stays level for several bins (a gap), the middle of them is as good as any.
    offset = np.where(after - before <= 2, offset, 0.0)
    value = value + offset * (gradient + offset * (curvature / 2 + offset * skew / 6))
    position = center + offset
    # The density starts and ends at nil, so a peak is both the first and the last extremum.
    return position[0::2], position[1::2], value[0::2], value[1::2]


def _drop_shallow(
    peaks: np.ndarray, valleys: np.ndarray, heights: np.ndarray, floors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Merges each peak that hardly rises above a valley beside it into the higher peak beyond that valley."""
    border = [-np.inf]
    while True:
        left, right = np.concatenate([border, floors]), np.concatenate([floors, border])
        shallow = heights - np.maximum(left, right) < _MIN_DEPTH * heights
        if not shallow.any():
            return peaks, valleys
        # The lower peak of two gives way, the right one of equals, so that no valley is dropped twice.
        beyond_left, beyond_right = np.concatenate([border, heights[:-1]]), np.concatenate([heights[1:], border])
        drop_left = shallow & (left >= right) & (heights <= beyond_left)
        drop_right = shallow & (left < right) & (heights < beyond_right)
        keep = ~(drop_left[1:] | drop_right[:-1])
        valleys, floors = valleys[keep], floors[keep]
        keep = ~(drop_left | drop_right)
        peaks, heights = peaks[keep], heights[keep]
