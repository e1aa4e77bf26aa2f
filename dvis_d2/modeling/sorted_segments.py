"""Sorted segments of entries and the prefix sums from which sums over pairs are read.

Shapes and names:
    P: foreground pixels of a batch.
    E: entries, a pixel once for every tile that holds it (E = P without windows).
    segment: a set of entries that form pairs with one another: an image or a tile, or an instance in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Entries:
    """Entries sorted by (segment, value), (E,) each."""

    pixel: Tensor  # int64, which foreground pixel an entry is
    segment: Tensor  # int64, ascending
    weight: Tensor  # float64


@dataclass
class Segments:
    """Prefix sums over sorted entries: (E,) each, (E + 1,) the prefix sums. Floats are float64."""

    pixel: Tensor
    image: Tensor  # int64
    weight: Tensor
    value: Tensor  # relative to the lowest of the segment
    start: Tensor  # int64, first entry of the entry's segment
    end: Tensor  # int64, one past its last
    key: Tensor  # ascending over all entries; differences up to the reach equal those of the values
    position: Tensor  # key relative to the segment's start
    prefix_weight: Tensor
    prefix_position: Tensor  # of weight * position


def take(x: Tensor, index: Tensor) -> Tensor:
    # On the CPU several times faster than x[index].
    return x.index_select(0, index)


def ascending_bits(value: Tensor) -> Tensor:
    """Integers (P,) that sort as the floats ``value`` do. torch sorts integers several times faster."""
    if value.dtype == torch.float64:
        bits, sign_bit, magnitude = value.view(torch.int64), 63, 0x7FFF_FFFF_FFFF_FFFF
    else:
        bits, sign_bit, magnitude = value.float().view(torch.int32), 31, 0x7FFF_FFFF
    return bits ^ ((bits >> sign_bit) & magnitude)


def segment_bounds(segment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For sorted segment labels (E,): each entry's segment from 0, its first entry, one past its last."""
    size = len(segment)
    entry = torch.arange(size, device=segment.device)
    is_first = torch.ones(size, dtype=torch.bool, device=segment.device)
    is_first[1:] = segment[1:] != segment[:-1]
    number = is_first.cumsum(0) - 1
    # Slot k holds the start of segment k; slots past the last segment hold E; the final slot takes the rest.
    starts = torch.full((size + 2,), size, device=segment.device)
    starts.scatter_(0, torch.where(is_first, number, size + 1), entry)
    return number, take(starts, number), take(starts, number + 1)


def build_segments(entries: Entries, value: Tensor, image: Tensor, reach: float) -> Segments:
    """Prefix sums of sorted entries.

    The key is the running sum of the gaps between neighbours, each cut at ``reach``, which is also put
    between segments. Cutting changes no distance below ``reach``, and a single extreme value in one image
    cannot cost the others their precision.
    """
    segment = entries.segment
    _, start, end = segment_bounds(segment)
    value = take(value, entries.pixel)
    key = torch.zeros_like(value)
    key[1:] = torch.where(segment[1:] == segment[:-1], value.diff().clamp_(max=reach), reach)
    key = key.cumsum_(0)
    position = key - take(key, start)
    return Segments(
        pixel=entries.pixel,
        image=take(image, entries.pixel),
        weight=entries.weight,
        value=value - take(value, start),
        start=start,
        end=end,
        key=key,
        position=position,
        prefix_weight=_prefix_sum(entries.weight),
        prefix_position=_prefix_sum(entries.weight * position),
    )


def partners_within(segments: Segments, distance: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Partners whose label is at most ``distance`` below, and above: their weight and weighted distance.

    Returns:
        weight below, distance below, weight above, distance above; (E,) each.
    """
    w, wx, x = segments.prefix_weight, segments.prefix_position, segments.position
    first = torch.searchsorted(segments.key, segments.key - distance)
    # ``first`` ascends, so the entries whose range includes j are those after j with first <= j: counting
    # them gives the upper end without a second search, and every pair is seen from both of its ends or from
    # none.
    starting = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    last = starting.scatter_add_(0, first, torch.ones_like(first))[:-1].cumsum(0)
    below = w[:-1] - take(w, first)
    distance_below = (x * below).sub_(wx[:-1] - take(wx, first))
    above = take(w, last) - w[1:]
    distance_above = (take(wx, last) - wx[1:]).sub_(x * above)
    return below, distance_below, above, distance_above


def _prefix_sum(x: Tensor) -> Tensor:
    out = x.new_zeros(len(x) + 1)
    torch.cumsum(x, 0, out=out[1:])
    return out
