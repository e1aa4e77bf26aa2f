"""The sums of eqs. 4-5 over *all* pairs of pixels, exactly, with their gradient, in O(P log P).

After a sort of the labels the partners of a pixel within a distance below its own are a contiguous range, whose weight
and total distance prefix sums give, and from them loss and gradient (docs/guide/loss.md derives it).

Shapes: N images of a batch, (H, W) the label map, P foreground pixels of the batch, ordered by image and then by label,
E entries, the pixels that take part in a sum, P at most, S segments. A segment is a set of entries that form pairs with
one another: an image or a tile of it, or an instance in one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import numpy as np
except ImportError:  # torch works without
    np = None  # type: ignore[assignment]


@torch.no_grad()
def exact_pairs(
    label_map: Tensor,
    instance_ids: Tensor,
    foreground: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    window: int | Sequence[tuple[int, float]],
) -> tuple[Tensor, Tensor]:
    """Eqs. 4-5 over all pairs in the ``foreground``; see :func:`~dvis_d2.modeling.losses.permutation_invariant_loss`.

    ``window`` is a side in map pixels, 0 for the whole map, or (side, factor) pairs whose losses are added. Returns the
    loss, float64 scalar, and its derivative by the label map, float64 (N, H, W).
    """
    windows = [(window, 1.0)] if isinstance(window, int) else list(window)
    if not windows:
        raise ValueError("window must name at least one window; (0, 1.0) is the whole map")
    for side, factor in windows:
        if side < 0 or side % 2 or not 0 <= factor < torch.inf:
            raise ValueError(f"window must be even and >= 0 map pixels, its factor >= 0, not {side} with {factor}")
    pixels = _sort_pixels(label_map, instance_ids, foreground, reduction)
    reach = 2 * max(margin, theta)
    # The sums would hide an infinite value in a segment that has no partner for it.
    loss, gradient = (pixels.value * 0).sum(), torch.zeros_like(pixels.value)
    for side, factor in windows:
        same, different = _Sums(pixels), _Sums(pixels)
        for every, instances, weight in _segmentations(pixels, label_map.shape[1:], side):
            # All pairs less those of the instances. One set of segments at a time, since they fill the memory.
            segments = _Segments(instances, pixels.value, weight, reach)
            same.add(segments, segments.same(theta))
            different.add(segments, segments.different(margin, theta), sign=-1)
            segments = _Segments(every, pixels.value, weight, reach)
            different.add(segments, segments.different(margin, theta))
        for term, kind_weight in ((same, 1.0), (different, different_weight)):
            mean_over = (same, different) if reduction == "pairs" else (term,)
            total = sum(kind.pair_weight for kind in mean_over)
            num_images = torch.stack([kind.has_pairs > 0 for kind in mean_over]).any(0).sum()
            # Where no pair is, all minus same is rounding noise, which must not become a gradient.
            scale = torch.where(term.has_pairs > 0, factor * kind_weight / (total * num_images), 0)
            loss = loss + (term.loss * scale).sum()
            gradient.addcmul_(term.gradient, _take(scale, pixels.image))
    full = gradient.new_zeros(label_map.numel()).scatter_(0, pixels.index, gradient)
    return loss, full.view_as(label_map)


@dataclass
class _Entries:
    """Pixels sorted by (segment, value)."""

    pixel: Tensor  # int64 (E,), which foreground pixel an entry is
    segment: Tensor  # int64 (E,), 0 .. S - 1 ascending
    bounds: Tensor  # int64 (S + 1,), first entry of every segment, and E
    count: Tensor  # int64 (N,), entries of every image; segments come image by image

    @classmethod
    def from_labels(cls, pixel: Tensor, label: Tensor, count: Tensor) -> "_Entries":
        """Segments are the runs of equal ``label``, int64 (E,)."""
        is_first = torch.ones_like(label, dtype=torch.bool)
        torch.ne(label[1:], label[:-1], out=is_first[1:])
        start = is_first.nonzero().squeeze(1)
        return cls(pixel, is_first.cumsum(0) - 1, torch.cat((start, start.new_full((1,), len(label)))), count)

    def sum_images(self, x: Tensor) -> Tensor:
        """Sums (N,) of float ``x`` (E,) over the images, each by itself, so that none costs another precision."""
        return torch.segment_reduce(x, "sum", lengths=self.count, unsafe=True)


@dataclass
class _Pixels:
    """The foreground pixels, ordered by image and then by label; (P,) each."""

    index: Tensor  # int64, position in the flattened batch
    image: Tensor  # int64
    count: Tensor  # int64 (N,), pixels of every image
    value: Tensor  # float64
    weight: Tensor  # float64
    instances: _Entries  # the instances of the images


def _sort_pixels(label_map: Tensor, instance_ids: Tensor, foreground: Tensor, reduction: str) -> _Pixels:
    index = foreground.flatten().nonzero().squeeze(1)
    count = foreground.flatten(1).sum(1)
    index = _take(index, _stable_argsort(_take(label_map.flatten(), index)))
    image = torch.div(index, label_map.shape[1:].numel(), rounding_mode="floor")
    order = _stable_argsort(image)
    index, image = _take(index, order), _take(image, order)
    value = _take(label_map.flatten(), index).double()
    # One sort by value serves every segmentation: each is a stable sort of small integers on top of it.
    label = _take(instance_ids.flatten(), index)
    label = label + image * (label.amax() + 1 if len(label) else 1)
    order = _stable_argsort(label)
    instances = _Entries.from_labels(order, _take(label, order), count)
    weight = torch.ones_like(value)
    if reduction == "instances":
        weight[order] = 1 / _take(instances.bounds.diff(), instances.segment).double()
    return _Pixels(index, image, count, value, weight, instances)


class _Segments:
    """Sorted segments with the prefix sums from which sums over pairs are read: float64 (E,), prefix sums (E + 1,).

    ``value`` and ``weight`` are those of every foreground pixel, float64 (P,); ``reach`` is more than the largest
    distance to be asked for.
    """

    def __init__(self, entries: _Entries, value: Tensor, weight: Tensor, reach: float):
        self.entries = entries
        start = entries.bounds[:-1]
        self.value, self.weight = _take(value, entries.pixel), _take(weight, entries.pixel)
        # The searched key is the running sum of the gaps between neighbors, each cut at ``reach``, which is also put
        # between segments. That changes no distance below it, and an extreme value cannot cost others their precision.
        key = self.value.diff(prepend=self.value[:1])
        self.key = key.index_fill_(0, start, reach).clamp_(max=reach).cumsum_(0)
        self.position = self.key - _take(_take(self.key, start), entries.segment)
        self.prefix_weight = F.pad(self.weight.cumsum(0), (1, 0))
        self.prefix_position = F.pad((self.weight * self.position).cumsum(0), (1, 0))
        below = self.prefix_weight[:-1] - _take(_take(self.prefix_weight, start), entries.segment)
        self.pair_weight = entries.sum_images(below * self.weight)  # (N,), total weight of the pairs of every image
        first_of_image = F.pad(entries.count.cumsum(0), (1, 0))
        # int64 (N,), > 0 for images with a pair: entries beyond the first of their segment
        self.has_pairs = entries.count - torch.searchsorted(start, first_of_image).diff()

    def same(self, theta: float) -> tuple[Tensor, Tensor]:
        """Sum of L_h(|vi - vj|) over the pairs of every segment.

        With h' = min(d / theta, 1): L_h(d) = d h'(d) / 2 + max(d - theta, 0) / 2, and the sum of d h'(d) over the
        pairs is the sum of value times slope over the entries. Returns float64 (E,) each: shares of the loss, which
        make sense in sums over whole segments only, and the derivative of the sum by the value.
        """
        first, last = self._partners(theta)
        w, wx = self.prefix_weight, self.prefix_position
        bounds = _take(w, self.entries.bounds)
        start, end = _take(bounds[:-1], self.entries.segment), _take(bounds[1:], self.entries.segment)
        w_first, w_last = _take(w, first), _take(w, last)
        # Values relative to the lowest of the segment, positions beyond the reach of cut gaps too
        value = self.value - _take(_take(self.value, self.entries.bounds[:-1]), self.entries.segment)
        far_below = w_first - start
        far = far_below + w_last - end  # weight of the partners farther than theta: below minus above
        # Sum of w_j (xi - xj) over the partners within theta, in which the entry itself counts nothing
        distance = (w_last - w_first).mul_(self.position).sub_(_take(wx, last)).add_(_take(wx, first))
        slope = distance.div_(theta).add_(far)
        loss = far.add_(slope).mul_(value).sub_(far_below, alpha=theta)
        return loss.mul_(self.weight).div_(2), slope.mul_(self.weight)

    def different(self, margin: float, theta: float) -> tuple[Tensor, Tensor]:
        """Sum of L_h(ReLU(margin - |vi - vj|)) over the pairs of every segment; returns as :meth:`same`.

        With u = margin - d and h' = (ReLU(u) - ReLU(u - theta)) / theta:
        L_h(u) = (margin - d) h' / 2 + ReLU(u - theta) / 2.
        """
        down, up = self._hinge_sums(margin)
        flat = margin - theta  # below this distance the loss is linear
        if flat > 0:
            flat_down, flat_up = self._hinge_sums(flat)
            down, up = down - flat_down, up - flat_up
        slope = up.sub_(down).div_(theta)
        loss = down.mul_(margin / theta).addcmul_(self.position, slope)
        if flat > 0:
            loss += flat_down
        return loss.mul_(self.weight).div_(2), slope.mul_(self.weight)

    def _hinge_sums(self, distance: float) -> tuple[Tensor, Tensor]:
        """Sums of w_j ReLU(distance - |xi - xj|) over the partners below every entry, and above; (E,) each."""
        first, last = self._partners(distance)
        w, wx, x = self.prefix_weight, self.prefix_position, self.position
        below, above = w[:-1] - _take(w, first), _take(w, last) - w[1:]
        down = (wx[:-1] - _take(wx, first)).addcmul_(below, x, value=-1).add_(below, alpha=distance)
        up = (wx[1:] - _take(wx, last)).addcmul_(above, x).add_(above, alpha=distance)
        return down, up

    def _partners(self, distance: float) -> tuple[Tensor, Tensor]:
        """int64 (E,) each: the entries at most ``distance`` below entry i, first[i] .. i, and above, i .. last[i] - 1.

        Up to rounding of the distance; every pair is in the ranges of both of its ends or of none. Both follow from the
        places that keys, and keys lowered by the distance, take in one sorted list, which merging makes in linear time.
        """
        order = _stable_argsort(torch.cat((self.key - distance, self.key)))  # lowered keys first at ties
        is_key = order >= len(self.key)
        index = torch.arange(len(self.key), device=order.device)
        return (~is_key).nonzero().squeeze(1).sub_(index), is_key.nonzero().squeeze(1).sub_(index)


class _Sums:
    """Sums over the pairs of each image (N,), and the derivative of the sum over all images (P,)."""

    def __init__(self, pixels: _Pixels):
        self.loss, self.pair_weight = pixels.value.new_zeros(2, len(pixels.count))
        self.has_pairs = torch.zeros_like(pixels.count)
        self.gradient = torch.zeros_like(pixels.value)

    def add(self, segments: _Segments, shares: tuple[Tensor, Tensor], sign: int = 1) -> None:
        loss, gradient = shares
        self.loss.add_(segments.entries.sum_images(loss), alpha=sign)
        self.pair_weight.add_(segments.pair_weight, alpha=sign)
        self.has_pairs.add_(segments.has_pairs, alpha=sign)
        self.gradient.index_add_(0, segments.entries.pixel, gradient, alpha=sign)


def _segmentations(pixels: _Pixels, shape: torch.Size, side: int) -> Iterator[tuple[_Entries, _Entries, Tensor]]:
    """Segmentations that together hold all pairs of a window: images or tiles, the instances within them, and the
    pixels' weights (P,).

    Tiles of ``side`` x ``side`` map pixels start at the map's upper left corner and repeat every ``side / 2``, as many
    as cover the map. A pixel lies in one or two tiles along each axis, so in T = 1, 2 or 4, with 1 / sqrt(T) of its
    weight in each. Tiles ``side`` apart do not overlap: every second tile along each axis makes a grid in which a pixel
    lies in one tile or in none, and each grid is a segmentation.
    """
    height, width = shape
    if side == 0 or side >= max(height, width):
        pixel = torch.arange(len(pixels.index), device=pixels.index.device)
        yield _Entries.from_labels(pixel, pixels.image, pixels.count), pixels.instances, pixels.weight
        return
    row = torch.div(pixels.index, width, rounding_mode="floor")
    row, column = row % height, pixels.index - row * width
    (rows, num_rows), (columns, num_columns) = (_axis_tiles(length, side, row.device) for length in shape)
    num_tiles = num_rows * num_columns
    share_row, share_column = ((axis >= 0).sum(0).double().rsqrt_() for axis in (rows, columns))
    weight = pixels.weight * _take(share_row, row) * _take(share_column, column)
    by_instance, instance = pixels.instances.pixel, pixels.instances.segment
    first_tile = torch.arange(len(pixels.count) + 1, device=row.device) * num_tiles
    for row_tile in torch.where(rows < 0, -num_tiles, rows * num_columns):  # a sum with a missing part stays below 0
        for column_tile in torch.where(columns < 0, -num_tiles, columns):
            tile = _take(row_tile, row) + _take(column_tile, column)
            tile = torch.where(tile < 0, -1, tile + pixels.image * num_tiles)
            outside = int((tile < 0).sum())
            pixel = _stable_argsort(tile)[outside:]
            label = _take(tile, pixel)
            count = torch.searchsorted(label, first_tile).diff()
            every = _Entries.from_labels(pixel, label, count)
            tile = _take(tile, by_instance)
            order = _stable_argsort(tile)[outside:]
            label = _take(tile, order) * len(instance) + _take(instance, order)
            yield every, _Entries.from_labels(_take(by_instance, order), label, count), weight


def _axis_tiles(length: int, side: int, device: torch.device) -> tuple[Tensor, int]:
    """int64 (1 or 2, length): for even tiles, and for odd ones if there are any, the tile of every position along an
    axis, -1 for none; and the number of tiles."""
    count = 1 if length <= side else -(-2 * length // side) - 1
    last = torch.arange(length, device=device).div(side // 2, rounding_mode="floor")
    tile = torch.stack([last - (last - parity) % 2 for parity in range(min(count, 2))])
    return torch.where(tile < count, tile, -1), count


def _stable_argsort(keys: Tensor) -> Tensor:
    """The order that sorts keys (P,) and keeps ties. On the CPU NumPy is several times faster: it merges sorted runs
    and has a radix sort for 16 bits."""
    if np is None or keys.device.type != "cpu":
        return keys.argsort(stable=True)
    digits = keys.numpy()
    if not keys.is_floating_point() and -(2**15) <= digits.min(initial=0) and digits.max(initial=0) < 2**15:
        digits = digits.astype(np.int16)
    return torch.from_numpy(np.argsort(digits, kind="stable"))


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(0, index)  # on the CPU several times faster than x[index]
