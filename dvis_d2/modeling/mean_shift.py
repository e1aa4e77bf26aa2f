"""Exact mean shift of scalars without iterations (paper, section 4, "Discretization").

Mean shift climbs the kernel density estimate, and in one dimension no climb jumps over a valley: the basins are the
intervals between the density's local minima. So: bin the values -> smooth the histogram -> find peaks and valleys ->
look up which interval a value lies in (docs/guide/grouping.md).

Shapes: P values, S sets of values (one for each image and bandwidth), M modes, C occupied cells of bins.
Needs torch alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A bin is sigma / 16. Extrema closer than a bin are missed; they belong to modes that are about to merge.
_BINS_PER_SIGMA = 16
# Bins are allocated in cells, and only around values, so a wide range costs no memory. The kernel is cut at 7.5 sigma
# (6e-13 of its height), less than a cell, so an empty cell separates the values on its two sides.
_CELL = 8 * _BINS_PER_SIGMA
_KERNEL_RADIUS = _CELL - 8
_FAR = 2.0**60  # bins from 0: beyond, different values are more than a cell apart
_CHUNK = 4096  # cells that are smoothed at once: 12 MiB
# Weights are summed as integers of this many binary places: such sums do not depend on the order of the additions, so a
# GPU's atomic additions give the same modes at every run.
_FIXED_POINT = 2.0**32
# A valley shallower than this share of the lower peak beside it is rounding: a flat density has hundreds.
_MIN_DEPTH = 1e-5


def mean_shift_1d(values: Tensor, bandwidth: float, *, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean shift of one set of scalars, float (P,), with a Gaussian kernel of sigma = bandwidth / 3. NaN and infinities
    are ignored, and so are values whose weight, how much they count in the density, is not positive and finite. The
    paper uses the bandwidths 0.9 and 0.4.

    Returns:
        modes (M,) ascending, where the density's local maxima are, to about 1e-4 sigma, float32 for values of half
        precision, else the dtype of `values`, none where no value is used; and assignment int64 (P,), in [0, M), the
        index of the mode a value climbs to, -1 for an ignored value.

    All arithmetic is float64 on the device of `values`; no gradient flows. Deterministic. A level stretch of the
    density (evenly spaced values) counts as one mode somewhere on it. ValueError where an argument does not fit.
    """
    segment_ids = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
    modes, _, assignment = mean_shift_1d_batched(values, segment_ids, [bandwidth], weights=weights)
    return modes, assignment


@torch.no_grad()
def mean_shift_1d_batched(
    values: Tensor, segment_ids: Tensor, bandwidths: Sequence[float], *, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean shift of S independent sets of scalars at once, such as all images of a batch at all bandwidths: values
    float (P,) in any order, the set of each, int64 (P,) in [0, S), the S sets' bandwidths, and the values' weights.

    Returns:
        modes (M,), ordered by set and ascending within a set; mode_segments int64 (M,), the set of each mode;
        assignment int64 (P,), an index into `modes`, or -1. A set's result does not depend on the other sets.

    The number of host synchronizations does not depend on S. Memory is O(P) whatever the range: at most about 8 KiB for
    each value, where all lie far apart.
    """
    if values.ndim != 1 or not values.is_floating_point():
        raise ValueError(f"values must be a float tensor (P,), got {values.dtype} {tuple(values.shape)}")
    for name, tensor in (("segment_ids", segment_ids), ("weights", weights)):
        if tensor is not None and tensor.shape != values.shape:
            raise ValueError(f"{name} must be {tuple(values.shape)} like values, got {tuple(tensor.shape)}")
    for bandwidth in bandwidths:
        if not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth must be a positive number, got {bandwidth}")
    device = values.device
    usable = torch.isfinite(values)
    if weights is not None:
        usable &= torch.isfinite(weights) & (weights > 0)
    index = usable.nonzero()[:, 0]
    assignment = torch.full(values.shape, -1, dtype=torch.int64, device=device)
    mode_dtype = torch.promote_types(values.dtype, torch.float32)
    if len(index) == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty.to(mode_dtype), empty, assignment

    # Most of the time goes into look-ups, and on the CPU index_select is several times faster than indexing.
    segments = segment_ids.index_select(0, index)
    bin_widths = torch.tensor(bandwidths, dtype=torch.float64, device=device) / (3 * _BINS_PER_SIGMA)
    values = values.index_select(0, index).double()
    position = values / bin_widths.index_select(0, segments)
    cell = torch.floor(position / _CELL)
    if len(far := (position.abs() > _FAR).nonzero()[:, 0]):  # cells without numbers: one for each value
        rank = values[far].unique(return_inverse=True)[1].double() + 1
        rank = torch.where(values[far] < 0, rank - rank.max() - 1, rank)
        cell[far] = rank.sign() * _FAR * (1 + rank.abs() * 2.0**-40)
        position[far] = cell[far] * _CELL
    point_slot, slot, cell_segments, cell_values = _allocate_cells(cell, segments, len(bandwidths))
    # In units of bins, on an axis on which cells without values are left out and the sets follow each other.
    position = point_slot * _CELL + (position - cell * _CELL).clamp_(0, _CELL)

    mass = torch.ones_like(position)
    if weights is not None:  # over the largest of their set, at least 2**-32, so that no value is without density
        mass = weights[index].double()
        largest = torch.zeros(len(bandwidths), dtype=torch.float64, device=device)
        largest.scatter_reduce_(0, segments, mass, "amax")
        mass = (mass / largest.index_select(0, segments)).clamp_min(1 / _FIXED_POINT)
    density = _density(position, mass, int(slot[-1]) + 2)
    peaks, valleys = _drop_shallow(*_extrema(density))

    basin = torch.bucketize(position, valleys.contiguous())
    inhabited = torch.zeros(len(peaks), dtype=torch.bool, device=device)
    inhabited[basin] = True
    peaks = peaks[inhabited]
    assignment.scatter_(0, index, (torch.cumsum(inhabited, 0) - 1).index_select(0, basin))

    # The nearest cell, not the one that contains the mode: a mode may lie on the very edge of its cell.
    nearest = torch.bucketize(peaks / _CELL, (slot[1:] + slot[:-1] + 1) / 2)
    mode_segments = cell_segments[nearest]
    modes = (peaks + (cell_values[nearest] - slot[nearest]) * _CELL) * bin_widths[mode_segments]
    if len(far):
        modes[assignment[index[far]]] = values[far]
    most = torch.finfo(mode_dtype).max  # of which a mode of the largest values may be a rounding error above
    return modes.clamp(-most, most).to(mode_dtype), mode_segments, assignment


def _allocate_cells(cell: Tensor, segments: Tensor, num_segments: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gives every occupied cell a slot on one axis; neighbors stay neighbors, wider gaps shrink to one slot.

    Returns each value's slot int64 (P,), and for each occupied cell its slot int64 (C,), ascending from 1, its set, and
    its number on the set's own axis.
    """
    low, high = torch.stack(torch.aminmax(cell)).tolist()
    width = high - low + 1
    if width * num_segments <= 4 * len(cell) + 1024:
        width = int(width)
        key = segments * width + (cell - low).long()
        occupied = torch.zeros(num_segments * width, dtype=torch.bool, device=cell.device)
        occupied[key] = True
        point_to_cell = (torch.cumsum(occupied, 0) - 1).index_select(0, key)
        key = occupied.nonzero()[:, 0]
        cell_segments = torch.div(key, width, rounding_mode="floor")
        cell_values = (key % width).double() + low
    else:  # too wide for a table: sort instead
        order = torch.argsort(cell, stable=True)
        order = order[torch.argsort(segments[order], stable=True)]
        first = torch.ones(len(cell), dtype=torch.bool, device=cell.device)
        first[1:] = (cell[order].diff() != 0) | (segments[order].diff() != 0)
        point_to_cell = torch.empty_like(order)
        point_to_cell[order] = torch.cumsum(first, 0) - 1
        cell_segments, cell_values = segments[order][first], cell[order][first]
    adjacent = (cell_segments.diff() == 0) & (cell_values.diff() == 1)
    slot = torch.ones_like(cell_segments)
    slot[1:] += torch.cumsum(torch.where(adjacent, 1, 2), 0)
    return slot.index_select(0, point_to_cell), slot, cell_segments, cell_values


def _density(position: Tensor, mass: Tensor, num_slots: int) -> Tensor:
    """Gaussian kernel density estimate at the bins' centers, float64 (num_slots * _CELL,), unnormalized.

    Each value is shared among its three nearest bins with Lagrange's weights, which keep its mass, mean and spread, so
    the binned density errs in the third order of a bin only.
    """
    nearest = torch.round(position)
    offset = position - nearest
    nearest = nearest.long()
    mass = mass * _FIXED_POINT
    half_square, half_offset = mass * offset.square() / 2, mass * offset / 2
    left, right = (half_square - half_offset).long(), (half_square + half_offset).long()
    center = mass.long() - left - right
    # One free slot before and one after, for the kernel's reach.
    histogram = torch.zeros((num_slots + 2) * _CELL, dtype=torch.int64, device=position.device)
    for shift, share in ((-1, left), (0, center), (1, right)):
        histogram.scatter_add_(0, nearest + (_CELL + shift), share)

    # The convolution as one matrix product: a cell's density from the bins of the cell and of its two neighbors.
    distance = torch.arange(1 - 2 * _CELL, 2 * _CELL, dtype=torch.float64, device=position.device)
    kernel = torch.exp(-0.5 * (distance / _BINS_PER_SIGMA) ** 2)
    kernel[distance.abs() > _KERNEL_RADIUS] = 0
    kernel = kernel.unfold(0, _CELL, 1).flip(0)  # (3 * _CELL, _CELL), the source's bin by the target's
    neighborhoods = histogram.unfold(0, 3 * _CELL, _CELL)  # a view; only a chunk at a time becomes a copy
    density = [chunk.double() @ kernel for chunk in neighborhoods.split(_CHUNK)]
    # The weights' negative lobes may show where the kernel is cut; there the density is nil.
    return torch.cat(density).flatten().clamp_min_(0).div_(_FIXED_POINT)


def _extrema(density: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions of the peaks (M,) and of the valleys between them (M-1,), in bins; the density at both."""
    slope = density.diff()
    steps = slope.nonzero()[:, 0]
    rising = slope[steps] > 0
    turns = (rising[1:] != rising[:-1]).nonzero()[:, 0]
    before, after = steps[turns], steps[turns + 1]
    center = torch.div(before + 1 + after, 2, rounding_mode="floor")

    window = density[center[:, None] + torch.arange(-2, 3, device=density.device)]
    a, b, value, d, e = window.unbind(1)
    gradient = (8 * (d - b) - (e - a)) / 12
    curvature = (16 * (b + d) - (a + e) - 30 * value) / 12
    skew = (e - 2 * d + 2 * b - a) / 2
    offset = torch.zeros_like(gradient)
    for _ in range(3):  # Newton's steps to the zero of the gradient, expanded about the bin
        step = (gradient + offset * (curvature + offset * skew / 2)) / (curvature + offset * skew)
        offset = (offset - torch.nan_to_num(step, 0.0, 0.0, 0.0)).clamp(-0.5, 0.5)
    # Where the density stays level for several bins (a gap), the middle of them is as good as any.
    offset = torch.where(after - before <= 2, offset, 0.0)
    value = value + offset * (gradient + offset * (curvature / 2 + offset * skew / 6))
    position = center + offset
    # The density starts and ends at nil, so a peak is both the first and the last extremum.
    return position[0::2], position[1::2], value[0::2], value[1::2]


def _drop_shallow(peaks: Tensor, valleys: Tensor, heights: Tensor, floors: Tensor) -> tuple[Tensor, Tensor]:
    """Merges each peak that hardly rises above a valley beside it into the higher peak beyond that valley."""
    border = floors.new_full((1,), -torch.inf)
    while True:
        left, right = torch.cat([border, floors]), torch.cat([floors, border])
        shallow = heights - torch.maximum(left, right) < _MIN_DEPTH * heights
        if not shallow.any():
            return peaks, valleys
        # The lower peak of two gives way, the right one of equals, so that no valley is dropped twice.
        beyond_left, beyond_right = torch.cat([border, heights[:-1]]), torch.cat([heights[1:], border])
        drop_left = shallow & (left >= right) & (heights <= beyond_left)
        drop_right = shallow & (left < right) & (heights < beyond_right)
        keep = ~(drop_left[1:] | drop_right[:-1])
        valleys, floors = valleys[keep], floors[keep]
        keep = ~(drop_left | drop_right)
        peaks, heights = peaks[keep], heights[keep]
