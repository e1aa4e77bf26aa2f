"""The permutation-invariant loss over *all* pairs of pixels, exactly, in O(P log P).

Shapes and names:
    N, H, W: images of a batch, height and width of the label map.
    P: foreground pixels of the batch, ordered by image and then by label.
    E: entries, the pixels that take part in a sum, P at most.
    segment: a set of entries that form pairs with one another: an image or a tile, or an instance in one.

Labels are scalars, so after a sort the partners of a pixel whose labels lie within a distance ``s`` below its
own are a contiguous range. Prefix sums of w and w * x over the sorted entries then give the weight and the
total distance of those partners, and from them the loss and its gradient. ``docs/loss.md`` has the
derivation. Most of the time goes to memory, so the arithmetic overwrites its operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dvis_d2.modeling.pairs.fused_gradient import accumulation_dtype, attach_gradient
from dvis_d2.modeling.pairs.pair_terms import different_term, same_term
from dvis_d2.modeling.pairs.sorted_segments import Entries, Segments, build_segments, group, take
from dvis_d2.modeling.pairs.sorting import ascending_bits, stable_argsort, true_positions
from dvis_d2.modeling.pairs.tiles import Tiles, covers


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


@dataclass
class _Pixels:
    """The foreground pixels, ordered by image and then by label; (P,) each."""

    index: Tensor  # int64, position in the flattened batch
    image: Tensor  # int64
    count: Tensor  # int64 (N,), pixels of every image
    value: Tensor  # float64
    weight: Tensor  # float64
    instances: Entries  # the instances of the images


@dataclass
class _Sums:
    """Sums over the pairs of each image (N,), and the derivative of the sum over all images (P,)."""

    loss: Tensor
    pair_weight: Tensor
    has_pairs: Tensor  # int64, > 0 for images that have such a pair
    gradient: Tensor

    @classmethod
    def zeros(cls, pixels: _Pixels) -> _Sums:
        per_image = pixels.value.new_zeros(2, len(pixels.count))
        return cls(*per_image, torch.zeros_like(pixels.count), torch.zeros_like(pixels.value))

    def add(self, segments: Segments, shares: tuple[Tensor, Tensor], sign: int = 1) -> None:
        loss, gradient = shares
        entries = segments.entries
        self.loss.add_(entries.sum_images(loss), alpha=sign)
        self.pair_weight.add_(segments.pair_weight, alpha=sign)
        self.has_pairs.add_(segments.has_pairs, alpha=sign)
        self.gradient.index_add_(0, entries.pixel, gradient, alpha=sign)


@torch.no_grad()
def _loss_and_gradient(
    label_map: Tensor, instance_ids: Tensor, foreground: Tensor, weights: Tensor | None, options: tuple
) -> tuple[Tensor, Tensor]:
    margin, theta, reduction, different_weight, windows, same_global = options
    device = label_map.device
    work = float64_device(device)
    inputs = (x if x is None else x.to(work) for x in (label_map, instance_ids, foreground, weights))
    pixels = _sort_pixels(*inputs, reduction)
    reach = 2 * max(margin, theta)
    loss, gradient = pixels.value.new_zeros(()), torch.zeros_like(pixels.value)

    def add(term: _Sums, scale: Tensor) -> None:
        nonlocal loss
        loss = loss + (term.loss * scale).sum()
        gradient.addcmul_(term.gradient, take(scale, pixels.image))

    if same_global:
        same = _Sums.zeros(pixels)
        segments = build_segments(pixels.instances, pixels.value, pixels.weight, reach)
        same.add(segments, same_term(segments, theta))
        add(same, _mean_scale(same.pair_weight, same.has_pairs) * sum(factor for _, factor in windows))
    for side, factor in windows:
        groupings, weight = _groupings(pixels, label_map.shape[1:], side)
        same, different = _Sums.zeros(pixels), _Sums.zeros(pixels)
        for every, instances in groupings:
            # All pairs less those of the instances. One set of segments at a time, since they fill the memory.
            segments = build_segments(instances, pixels.value, weight, reach)
            if not same_global:
                same.add(segments, same_term(segments, theta))
            different.add(segments, different_term(segments, margin, theta), sign=-1)
            segments = build_segments(every, pixels.value, weight, reach)
            different.add(segments, different_term(segments, margin, theta))
        if reduction == "instances":
            same_scale = _mean_scale(same.pair_weight, same.has_pairs)
            different_scale = _mean_scale(different.pair_weight, different.has_pairs)
        else:
            same_scale = _mean_scale(same.pair_weight + different.pair_weight, same.has_pairs + different.has_pairs)
            # Where nothing differs, all minus same is rounding noise, which must not become a gradient.
            different_scale = torch.where(different.has_pairs > 0, same_scale, 0)
        if not same_global:
            add(same, same_scale * factor)
        add(different, different_scale * (factor * different_weight))

    # The sums above would hide an infinite value in a segment that has no partner for it.
    loss = loss + pixels.value.sum() * 0
    full = torch.zeros(label_map.numel(), dtype=accumulation_dtype(label_map), device=work)
    full.scatter_(0, pixels.index, gradient.to(full.dtype))
    # float64 does not exist on every device, so the loss leaves in the dtype of the result.
    return loss.to(full.dtype).to(device), full.view_as(label_map).to(device)


def float64_device(device: torch.device) -> torch.device:
    """Where to sum in float64: ``device``, or the CPU for Apple's GPUs, which have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _sort_pixels(
    label_map: Tensor, instance_ids: Tensor, foreground: Tensor, weights: Tensor | None, reduction: str
) -> _Pixels:
    index = true_positions(foreground.flatten())
    count = foreground.flatten(1).sum(1)
    image = torch.repeat_interleave(count, output_size=len(index))
    raw = take(label_map.flatten(), index)
    order = stable_argsort(image, stable_argsort(ascending_bits(raw)))
    index, value = take(index, order), take(raw, order).double()

    # One sort by value serves every segmentation: each is a stable sort of small integers on top of it.
    label = take(instance_ids.flatten(), index)
    label += image * (label.amax() + 1 if len(label) else 1)
    order = stable_argsort(label)
    instances = group(order, take(label, order), count)
    weight = torch.ones_like(value) if weights is None else take(weights.flatten(), index).double()
    if reduction == "instances":
        size = take(instances.bounds.diff(), instances.number).double()
        weight /= torch.empty_like(size).scatter_(0, order, size)
    return _Pixels(index, image, count, value, weight, instances)


def _groupings(pixels: _Pixels, shape: torch.Size, side: int) -> tuple[Iterable[tuple[Entries, Entries]], Tensor]:
    """Segmentations (images or tiles, the instances within them) that together hold all pairs of the window, and the
    pixels' weights in them."""
    if covers(side, *shape):
        every = group(torch.arange(len(pixels.index), device=pixels.index.device), pixels.image, pixels.count)
        return [(every, pixels.instances)], pixels.weight
    height, width = shape
    row = torch.div(pixels.index, width, rounding_mode="floor")
    tiles = Tiles(row % height, pixels.index - row * width, shape, side)
    return _tile_groupings(pixels, tiles), pixels.weight * tiles.scale()


def _tile_groupings(pixels: _Pixels, tiles: Tiles) -> Iterator[tuple[Entries, Entries]]:
    first_tile = torch.arange(len(pixels.count) + 1, device=pixels.index.device) * tiles.count
    by_instance, number = pixels.instances.pixel, pixels.instances.number
    for tile in tiles.grids():
        tile = torch.where(tile < 0, -1, tile + pixels.image * tiles.count)
        outside = int((tile < 0).sum())
        pixel = stable_argsort(tile)[outside:]
        label = take(tile, pixel)
        count = torch.searchsorted(label, first_tile).diff()
        every = group(pixel, label, count)
        tile = take(tile, by_instance)
        order = stable_argsort(tile)[outside:]
        label = take(tile, order).mul_(len(number)).add_(take(number, order))
        yield every, group(take(by_instance, order), label, count)


def _mean_scale(pair_weight: Tensor, has_pairs: Tensor) -> Tensor:
    """Factors (N,) that turn per-image sums into the mean over the images that have a pair."""
    present = has_pairs > 0
    return torch.where(present, 1 / (pair_weight * present.sum()), 0)
