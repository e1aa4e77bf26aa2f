"""The sums of eqs. 4-5 over samples of the pairs, as the paper computes them (secs. 3.2 and 4), with their gradient.

Shapes: N images of a batch, (H, W) the label map.
"""

import torch
from torch import Tensor


def stratified_offsets(window: int, center: int, dilation: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the lower half-plane, so that no pair comes twice: up to ``center`` (Chebyshev distance) all;
    beyond, up to ``window // 2``, those whose two parts are multiples of ``dilation``."""
    radius = window // 2
    return [
        (dy, dx)
        for dy in range(radius + 1)
        for dx in range(-radius if dy else 1, radius + 1)
        if max(dy, abs(dx)) <= center or (dy % dilation == 0 and dx % dilation == 0)
    ]


@torch.no_grad()
def stratified_pairs(
    label_map: Tensor,
    instance_ids: Tensor,
    foreground: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    window: int,
    center: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """Eqs. 4-5 over the paper's stratified pairs; see :func:`~dvis_d2.modeling.losses.permutation_invariant_loss`.
    Returns the loss and its derivative by the label map (N, H, W). One offset at a time bounds the memory."""
    if not isinstance(window, int) or window < 3 or window % 2 == 0:
        raise ValueError(f"window must be one odd number >= 3 for pairs='stratified', not {window}")
    if center < 1 or dilation < 1:
        raise ValueError(f"center and dilation must be >= 1, not {center} and {dilation}")
    values = torch.where(foreground, label_map, 0)
    weight = _pixel_weights(instance_ids, foreground, reduction, values.dtype)
    num_images, height, width = label_map.shape
    gradients = values.new_zeros(2, *label_map.shape)  # same, different
    totals = values.new_zeros(2, num_images)
    sums = torch.zeros_like(totals, dtype=torch.float64)  # that of large labels overflows in float32
    for dy, dx in stratified_offsets(window, center, dilation):
        if dy >= height or abs(dx) >= width:
            continue
        here = (slice(None), slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (slice(None), slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
        pair_weight = weight[here] * weight[there]
        same_weight = pair_weight * (instance_ids[here] == instance_ids[there])
        difference = values[here] - values[there]
        for kind, kind_weight in enumerate((same_weight, pair_weight - same_weight)):
            loss, slope = _pair_cost(difference, kind == 1, margin, theta)
            slope *= kind_weight
            gradients[kind][here] += slope
            gradients[kind][there] -= slope
            sums[kind] += (loss * kind_weight).sum((1, 2), dtype=sums.dtype)
            totals[kind] += kind_weight.sum((1, 2))
    scales = _mean_scales(totals, reduction, different_weight)
    return (sums * scales).sum() + (values * 0).sum(), (gradients * scales[:, :, None, None]).sum(0)


@torch.no_grad()
def random_pairs(
    label_map: Tensor,
    instance_ids: Tensor,
    foreground: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    num_pairs: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Eqs. 4-5 over random pairs; arguments and returns as :func:`stratified_pairs`. Two different pixels a pair, every
    unordered pair of an image's foreground equally likely, with replacement."""
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be >= 1, not {num_pairs}")
    index = foreground.flatten().nonzero().squeeze(1)
    values = label_map.flatten()[index]
    full = label_map.new_zeros(label_map.numel())
    if len(index) == 0:
        return values.sum(), full.view_as(label_map)
    weight = _pixel_weights(instance_ids, foreground, reduction, values.dtype).flatten()[index]
    ids = instance_ids.flatten()[index]
    count = foreground.flatten(1).sum(1)
    first = count.cumsum(0) - count

    draws = torch.rand(2, len(count), num_pairs, dtype=torch.float64, generator=generator, device=index.device)
    one = (draws[0] * count[:, None]).long()
    # The second pixel is 1 .. count - 1 steps after the first, around the end.
    step = 1 + (draws[1] * (count[:, None] - 1)).long()
    other = (one + step) % count.clamp(min=1)[:, None]
    # Images with fewer than two pixels point at any pixel and weigh nothing.
    one, other = ((x + first[:, None]).clamp(max=len(index) - 1) for x in (one, other))
    pair_weight = weight[one] * weight[other] * (count > 1)[:, None]

    is_same = ids[one] == ids[other]
    kinds = torch.stack((is_same, ~is_same)) * pair_weight
    kinds = kinds * _mean_scales(kinds.sum(2), reduction, different_weight)[:, :, None]
    difference = values[one] - values[other]
    loss, gradient = (values * 0).sum(), torch.zeros_like(values)
    for kind, kind_weight in enumerate(kinds):
        cost, slope = _pair_cost(difference, kind == 1, margin, theta)
        loss = loss + (cost * kind_weight).sum()
        slope = (slope * kind_weight).flatten()
        gradient.index_add_(0, one.flatten(), slope).index_add_(0, other.flatten(), slope, alpha=-1)
    return loss, full.scatter_(0, index, gradient).view_as(label_map)


def _pair_cost(difference: Tensor, different: bool, margin: float, theta: float) -> tuple[Tensor, Tensor]:
    """L_h(|d|), or L_h(ReLU(margin - |d|)) between instances, and its derivative by d."""
    distance = difference.abs()
    excess = (margin - distance).relu() if different else distance
    slope = (excess / theta).clamp(max=1)
    loss = slope * (excess - slope * (theta / 2))
    return loss, slope * (-difference.sign() if different else difference.sign())


def _pixel_weights(instance_ids: Tensor, foreground: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """Weight of every pixel (N, H, W), 0 outside of the foreground."""
    weight = foreground.to(dtype)
    if reduction == "instances":
        weight.masked_scatter_(foreground, 1 / instance_areas(instance_ids, foreground).to(dtype))
    return weight


def instance_areas(instance_ids: Tensor, foreground: Tensor) -> Tensor:
    """int64 (P,): of each of the batch's P foreground pixels, in their order, the area of its instance."""
    image = torch.arange(len(instance_ids), device=instance_ids.device)[:, None, None]
    keys = image * (instance_ids.amax() + 1) + instance_ids if instance_ids.numel() else instance_ids
    _, instance, areas = keys[foreground].unique(return_inverse=True, return_counts=True)
    return areas[instance]


def _mean_scales(totals: Tensor, reduction: str, different_weight: float) -> Tensor:
    """Factors (2, N) of the per-image sums (same, different) with total weights ``totals`` (2, N)."""
    if reduction == "pairs":
        totals = totals.sum(0, keepdim=True).expand(2, -1)
    present = totals > 0
    scales = torch.where(present, 1 / (totals * present.sum(1, keepdim=True)), 0)
    return scales * scales.new_tensor([[1.0], [different_weight]])
