"""Sorted segments of entries and the prefix sums from which sums over pairs are read.

Shapes and names:
    N: images of a batch.
    P: its foreground pixels.
    E: entries, the pixels that take part, P at most.
    S: segments. A segment is a set of entries that form pairs with one another: an image or a tile, or an
        instance in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_d2.modeling.pairs.sorting import partner_ranges, true_positions


@dataclass
class Entries:
    """Entries sorted by (segment, value)."""

    pixel: Tensor  # int64 (E,), which foreground pixel an entry is
    number: Tensor  # int64 (E,), the entry's segment, 0 .. S - 1 ascending
    bounds: Tensor  # int64 (S + 1,), first entry of every segment, and E
    count: Tensor  # int64 (N,), entries of every image; segments come image by image

    def sum_images(self, x: Tensor) -> Tensor:
        """Sums (N,) of float ``x`` (E,) over the images, each by itself, so that none costs another precision."""
        return torch.segment_reduce(x, "sum", lengths=self.count, unsafe=True)


@dataclass
class Segments:
    """Prefix sums over sorted entries: float64, (E,) each, (E + 1,) the prefix sums."""

    entries: Entries
    weight: Tensor
    value: Tensor
    key: Tensor  # ascending over all entries; differences up to the reach equal those of the values
    position: Tensor  # key relative to the segment's start
    prefix_weight: Tensor
    prefix_position: Tensor  # of weight * position
    pair_weight: Tensor  # (N,), total weight of the pairs of every image
    has_pairs: Tensor  # int64 (N,), > 0 for images with a pair: entries beyond the first of their segment

    def weight_bounds(self) -> tuple[Tensor, Tensor]:
        """The prefix weights at the first entry of each entry's segment and one past its last, (E,) each."""
        bounds = take(self.prefix_weight, self.entries.bounds)
        return take(bounds[:-1], self.entries.number), take(bounds[1:], self.entries.number)


@dataclass
class Partners:
    """Prefix sums at the ends of the ranges of :func:`~dvis_d2.modeling.pairs.sorting.partner_ranges`, (E,) each."""

    weight_first: Tensor
    weight_last: Tensor
    position_first: Tensor
    position_last: Tensor


def take(x: Tensor, index: Tensor) -> Tensor:
    # On the CPU several times faster than x[index].
    return x.index_select(0, index)


def group(pixel: Tensor, label: Tensor, count: Tensor) -> Entries:
    """Entries whose segments are the runs of equal ``label``, int64 (E,); the rest as in :class:`Entries`."""
    is_first = torch.ones_like(label, dtype=torch.bool)
    torch.ne(label[1:], label[:-1], out=is_first[1:])
    start = true_positions(is_first)
    bounds = torch.cat((start, start.new_full((1,), len(label))))
    return Entries(pixel, is_first.cumsum(0).sub_(1), bounds, count)


def build_segments(entries: Entries, value: Tensor, weight: Tensor, reach: float) -> Segments:
    """Prefix sums of sorted entries.

    The key starts at ``reach`` and is the running sum of the gaps between neighbours, each cut at ``reach``,
    which is also put between segments. Cutting changes no distance below ``reach``, and a single extreme
    value in one image cannot cost the others their precision.

    Args:
        value, weight: float64 (P,), of every foreground pixel.
        reach: more than the largest distance to be asked for.
    """
    start = entries.bounds[:-1]
    value, weight = take(value, entries.pixel), take(weight, entries.pixel)
    key = torch.empty_like(value)
    torch.sub(value[1:], value[:-1], out=key[1:])
    key = key.index_fill_(0, start, reach).clamp_(max=reach).cumsum_(0)
    position = key - take(take(key, start), entries.number)
    prefix_weight = _prefix_sum(weight)
    first_of_image = F.pad(entries.count.cumsum(0), (1, 0))
    below = take(take(prefix_weight, start), entries.number)
    pair_weight = entries.sum_images(torch.sub(prefix_weight[:-1], below, out=below).mul_(weight))
    return Segments(
        entries=entries,
        weight=weight,
        value=value,
        key=key,
        position=position,
        prefix_weight=prefix_weight,
        prefix_position=_prefix_sum(weight * position),
        pair_weight=pair_weight,
        has_pairs=entries.count - torch.searchsorted(start, first_of_image).diff(),
    )


def partners_within(segments: Segments, distance: float) -> Partners:
    """Where the partners at most ``distance`` away end, in prefix sums. Every pair is seen from both of its ends
    or from none."""
    first, last = partner_ranges(segments.key, distance)
    w, wx = segments.prefix_weight, segments.prefix_position
    return Partners(take(w, first), take(w, last), take(wx, first), take(wx, last))


def _prefix_sum(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x) + 1)
    torch.cumsum(x, 0, out=out[1:])
    return out
