"""The permutation-invariant loss over *all* pairs of pixels, exactly, in O(P log P).

Shapes and names:
    N, H, W: images of a batch, height and width of the label map.
    P: foreground pixels of the batch.
    E: entries, a pixel once for every tile that holds it (E = P without windows).
    segment: a set of entries that form pairs with one another: an image or a tile, or an instance in one.

Labels are scalars, so after a sort the partners of a pixel whose labels lie within a distance ``s`` below its
own are a contiguous range. Prefix sums of w and w * x over the sorted entries then give the weight and the
total distance of those partners, and from them the loss and its gradient. ``docs/loss.md`` has the
derivation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dvis_d2.modeling.fused_gradient import accumulation_dtype, attach_gradient
from dvis_d2.modeling.sorted_segments import (
    Entries,
    Segments,
    ascending_bits,
    build_segments,
    partners_within,
    segment_bounds,
    take,
)
from dvis_d2.modeling.tiles import assign_tiles, covers


@dataclass
class _Term:
    """Sums over the pairs of each image (N,), and the derivative of the sum over all images by entry (E,)."""

    loss: Tensor
    pair_weight: Tensor
    pair_count: Tensor  # int64
    segments: Segments
    gradient: Tensor


def exact_pair_loss(
    label_map: Tensor,
    instance_ids: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    windows: Sequence[tuple[int, float]],
    same_global: bool,
    foreground: Tensor,
    weights: Tensor | None,
) -> Tensor:
    """Eqs. 4-5 over all pairs; see :func:`dvis_d2.modeling.losses.permutation_invariant_loss`.

    Args:
        windows: (side in map pixels, factor) pairs whose losses are added; side 0 is the whole map.
        foreground: bool (N, H, W), the pixels that form pairs.
    """
    loss, gradient = _loss_and_gradient(
        label_map.detach(),
        instance_ids,
        foreground,
        None if weights is None else weights.detach(),
        (margin, theta, reduction, different_weight, tuple(windows), same_global),
    )
    return attach_gradient(label_map, loss, gradient)


@torch.no_grad()
def _loss_and_gradient(
    label_map: Tensor, instance_ids: Tensor, foreground: Tensor, weights: Tensor | None, options: tuple
) -> tuple[Tensor, Tensor]:
    margin, theta, reduction, different_weight, windows, same_global = options
    num_images, height, width = label_map.shape
    device = label_map.device
    work = float64_device(device)

    index = foreground.flatten().nonzero().squeeze(1).to(work)
    raw = take(label_map.flatten().to(work), index)
    order = ascending_bits(raw).argsort(stable=True)
    value = raw.double()
    image = torch.div(index, height * width, rounding_mode="floor")
    ids = take(instance_ids.flatten().to(work), index)
    weight = torch.ones_like(value) if weights is None else take(weights.flatten().to(work), index).double()

    # One sort by value serves every segmentation: each is a stable sort of small integers on top of it.
    by_instance, key = _stable_sort(order, image * (ids.amax() + 1 if len(ids) else 1) + ids)
    number, start, end = segment_bounds(key)
    instance = torch.empty_like(number).scatter_(0, by_instance, number)
    if reduction == "instances":
        weight = weight / torch.empty_like(weight).scatter_(0, by_instance, (end - start).double())
    del raw, ids, key, start, end

    reach = 2 * max(margin, theta)
    loss = value.new_zeros(())
    gradient = torch.zeros_like(value)

    def prepare(entries: Entries) -> Segments:
        return build_segments(entries, value, image, reach)

    def add(term: _Term, scale: Tensor) -> None:
        nonlocal loss
        loss = loss + (term.loss * scale).sum()
        share = term.gradient * take(scale, term.segments.image)
        gradient.index_add_(0, term.segments.pixel, share)

    whole_instances = Entries(by_instance, number, take(weight, by_instance))
    if same_global:
        same = _same_term(prepare(whole_instances), theta, num_images)
        add(same, _mean_scale(same.pair_weight, same.pair_count) * sum(factor for _, factor in windows))
    for side, factor in windows:
        if covers(side, height, width):
            pixel, segment = _stable_sort(order, image)
            entries, instances = Entries(pixel, segment, take(weight, pixel)), whole_instances
        else:
            entries, instances = _tile_entries(order, index, instance, weight, label_map.shape, side)
        segments = prepare(instances)
        same = _same_term(segments, theta, num_images)
        inside = _different_term(segments, margin, theta, num_images)
        every = _different_term(prepare(entries), margin, theta, num_images)
        different_count = every.pair_count - same.pair_count
        if reduction == "instances":
            same_scale = _mean_scale(same.pair_weight, same.pair_count)
            different_scale = _mean_scale(every.pair_weight - same.pair_weight, different_count)
        else:
            same_scale = _mean_scale(every.pair_weight, every.pair_count)
            # Where nothing differs, all minus same is rounding noise, which must not become a gradient.
            different_scale = torch.where(different_count > 0, same_scale, 0)
        different_scale = different_scale * (factor * different_weight)
        if not same_global:
            add(same, same_scale * factor)
        add(every, different_scale)
        add(inside, -different_scale)

    # The sums above would hide an infinite value in a segment that has no partner for it.
    loss = loss + value.sum() * 0
    full = torch.zeros(label_map.numel(), dtype=accumulation_dtype(label_map), device=work)
    full[index] = gradient.to(full.dtype)
    # float64 does not exist on every device, so the loss leaves in the dtype of the result.
    return loss.to(full.dtype).to(device), full.view_as(label_map).to(device)


def float64_device(device: torch.device) -> torch.device:
    """Where to sum in float64: ``device``, or the CPU for Apple's GPUs, which have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _stable_sort(order: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the pixels listed in ``order`` by their ``segment``, keeping ties; return both."""
    segment, permutation = take(segment, order).sort(stable=True)
    return take(order, permutation), segment


def _tile_entries(
    order: Tensor, index: Tensor, instance: Tensor, weight: Tensor, shape: torch.Size, side: int
) -> tuple[Entries, Entries]:
    """Entries of the tiles, and of the instances within the tiles."""
    pixel, tile, scale = assign_tiles(order, index, shape, side)
    weight = take(weight, pixel) * scale
    tile, permutation = tile.sort(stable=True)
    entries = Entries(take(pixel, permutation), tile, take(weight, permutation))
    key, permutation = (tile * (len(order) + 1) + take(instance, entries.pixel)).sort(stable=True)
    instances = Entries(take(entries.pixel, permutation), key, take(entries.weight, permutation))
    return entries, instances


def _same_term(segments: Segments, theta: float, num_images: int) -> _Term:
    """Sum of L_h(|vi - vj|) over the pairs of every segment.

    With h' = min(d / theta, 1): L_h(d) = d h'(d) / 2 + max(d - theta, 0) / 2, and the sum of d h'(d) over the
    pairs is the sum of value times slope over the pixels.
    """
    w = segments.prefix_weight
    below, distance_below, above, distance_above = partners_within(segments, theta)
    total_below = w[:-1] - take(w, segments.start)
    far_below = total_below - below
    far = far_below - (take(w, segments.end) - w[1:] - above)
    slope = far + (distance_below - distance_above) / theta
    loss = segments.weight * (segments.value * (slope + far) - theta * far_below) / 2
    return _reduce_images(segments, loss, segments.weight * slope, total_below, num_images)


def _different_term(segments: Segments, margin: float, theta: float, num_images: int) -> _Term:
    """Sum of L_h(ReLU(margin - |vi - vj|)) over the pairs of every segment.

    With u = margin - d and h' = (ReLU(u) - ReLU(u - theta)) / theta:
    L_h(u) = (margin - d) h' / 2 + ReLU(u - theta) / 2.
    """
    flat = max(margin - theta, 0.0)  # below this distance the loss is linear
    below, distance_below, above, distance_above = partners_within(segments, margin)
    down = margin * below - distance_below
    up = margin * above - distance_above
    below, distance_below, above, distance_above = partners_within(segments, flat)
    flat_down = flat * below - distance_below
    down = (down - flat_down) / theta
    up = (up - (flat * above - distance_above)) / theta
    slope = up - down
    loss = segments.weight * (margin * down + segments.position * slope + flat_down) / 2
    total_below = segments.prefix_weight[:-1] - take(segments.prefix_weight, segments.start)
    return _reduce_images(segments, loss, segments.weight * slope, total_below, num_images)


def _reduce_images(segments: Segments, loss: Tensor, gradient: Tensor, total_below: Tensor, num_images: int) -> _Term:
    def per_image(x: Tensor) -> Tensor:
        return x.new_zeros(num_images).index_add_(0, segments.image, x)

    count_below = torch.arange(len(loss), device=loss.device) - segments.start
    return _Term(
        loss=per_image(loss),
        pair_weight=per_image(segments.weight * total_below),
        pair_count=per_image(count_below),
        segments=segments,
        gradient=gradient,
    )


def _mean_scale(pair_weight: Tensor, pair_count: Tensor) -> Tensor:
    """Factors (N,) that turn per-image sums into the mean over the images that have a pair."""
    present = pair_count > 0
    return torch.where(present, 1 / (pair_weight * present.sum()), 0)
