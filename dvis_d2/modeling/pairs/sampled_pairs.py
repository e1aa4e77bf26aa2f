"""The permutation-invariant loss over samples of the pairs, as the paper computes it (secs. 3.2 and 4).

Shapes and names:
    N, H, W: images of a batch, height and width of the label map.
    M: random pairs drawn for each image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvis_d2.modeling.pairs.fused_gradient import accumulation_dtype, attach_gradient


def stratified_offsets(window: int, centre: int, dilation: int) -> tuple[list[tuple[int, int]], list[bool]]:
    """Offsets (dy, dx) of the lower half-plane, so that no pair comes twice, and whether each is dilated.

    Up to ``centre`` (Chebyshev distance) every offset; beyond, up to ``window // 2``, those whose two parts
    are multiples of ``dilation``.
    """
    radius = window // 2
    offsets, dilated = [], []
    for dy in range(radius + 1):
        for dx in range(-radius if dy else 1, radius + 1):
            far = max(dy, abs(dx)) > centre
            if not far or (dy % dilation == 0 and dx % dilation == 0):
                offsets.append((dy, dx))
                dilated.append(far)
    return offsets, dilated


def stratified_pair_loss(
    label_map: Tensor,
    instance_ids: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    window: int,
    centre: int,
    dilation: int,
    density_weighted: bool,
    foreground: Tensor,
    weights: Tensor | None,
) -> Tensor:
    """Eqs. 4-5 over the paper's stratified pairs; see
    :func:`dvis_d2.modeling.losses.permutation_invariant_loss`, which checks the arguments.

    Shifted slices of the map, one offset at a time; the gradient is summed in the same pass, so memory does
    not grow with the number of offsets.
    """
    with torch.no_grad():
        dtype = accumulation_dtype(label_map)
        values = torch.where(foreground, label_map, 0).to(dtype)
        weight = _pixel_weights(instance_ids, foreground, reduction, weights, dtype)
        num_images, height, width = label_map.shape
        gradients = values.new_zeros(2, *label_map.shape)  # same, different
        sums = values.new_zeros(2, num_images)
        totals = values.new_zeros(2, num_images)
        for (dy, dx), dilated in zip(*stratified_offsets(window, centre, dilation), strict=True):
            if dy >= height or abs(dx) >= width:
                continue
            here = (slice(None), slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
            there = (slice(None), slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
            factor = float(dilation**2) if density_weighted and dilated else 1.0
            pair_weight = weight[here] * weight[there] * factor
            same_weight = pair_weight * (instance_ids[here] == instance_ids[there])
            difference = values[here] - values[there]
            for kind, kind_weight in enumerate((same_weight, pair_weight - same_weight)):
                loss, slope = _pair_cost(difference, kind == 1, margin, theta)
                slope *= kind_weight
                gradients[kind][here] += slope
                gradients[kind][there] -= slope
                sums[kind] += (loss * kind_weight).sum((1, 2))
                totals[kind] += kind_weight.sum((1, 2))
        scales = _mean_scales(totals, reduction, different_weight)
        loss = (sums * scales).sum() + values.sum() * 0
        gradient = (gradients * scales[:, :, None, None]).sum(0)
    return attach_gradient(label_map, loss, gradient)


def random_pair_loss(
    label_map: Tensor,
    instance_ids: Tensor,
    *,
    margin: float,
    theta: float,
    reduction: str,
    different_weight: float,
    num_pairs: int,
    generator: torch.Generator | None,
    foreground: Tensor,
    weights: Tensor | None,
) -> Tensor:
    """Eqs. 4-5 over random pairs; see :func:`dvis_d2.modeling.losses.permutation_invariant_loss`.

    Two different pixels a pair, every unordered pair of an image's foreground equally likely, with
    replacement.
    """
    dtype = accumulation_dtype(label_map)
    num_images, height, width = label_map.shape
    index = foreground.flatten().nonzero().squeeze(1)
    values = label_map.flatten()[index].to(dtype)
    if len(index) == 0:
        return values.sum()
    weight = _pixel_weights(instance_ids, foreground, reduction, weights, dtype).flatten()[index]
    ids = instance_ids.flatten()[index]
    image = torch.div(index, height * width, rounding_mode="floor")
    count = torch.zeros(num_images, dtype=torch.int64, device=index.device)
    count.scatter_add_(0, image, torch.ones_like(image))
    first = count.cumsum(0) - count

    shape = (num_images, num_pairs)
    draws = torch.rand(2, *shape, dtype=torch.float64, generator=generator, device=index.device)
    one = (draws[0] * count[:, None]).long()
    # The second pixel is 1 .. count - 1 steps after the first, around the end.
    step = 1 + (draws[1] * (count[:, None] - 1)).long()
    other = (one + step) % count.clamp(min=1)[:, None]
    # Images with fewer than two pixels point at any pixel and weigh nothing.
    one, other = ((x + first[:, None]).clamp(max=len(index) - 1) for x in (one, other))
    pair_weight = weight[one] * weight[other] * (count > 1)[:, None]

    is_same = ids[one] == ids[other]
    kinds = torch.stack((is_same, ~is_same)) * pair_weight
    scales = _mean_scales(kinds.sum(2), reduction, different_weight)
    difference = values[one] - values[other]
    costs = torch.stack([_pair_cost(difference, different, margin, theta)[0] for different in (False, True)])
    return ((costs * kinds).sum(2) * scales).sum() + values.sum() * 0


def _pair_cost(difference: Tensor, different: bool, margin: float, theta: float) -> tuple[Tensor, Tensor]:
    """L_h(|d|), or L_h(ReLU(margin - |d|)) between instances, and its derivative by d."""
    distance = difference.abs()
    excess = (margin - distance).relu() if different else distance
    slope = (excess / theta).clamp(max=1)
    loss = slope * (excess - slope * (theta / 2))
    return loss, slope * (-difference.sign() if different else difference.sign())


def _pixel_weights(
    instance_ids: Tensor, foreground: Tensor, reduction: str, weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Weight of every pixel (N, H, W), 0 outside of the foreground."""
    out = foreground.to(dtype) if weights is None else weights.detach().to(dtype) * foreground
    if reduction == "instances":
        image = torch.arange(len(instance_ids), device=instance_ids.device)[:, None, None]
        stride = instance_ids.amax() + 1 if instance_ids.numel() else 1
        key = torch.where(foreground, image * stride + instance_ids, -1)
        _, number, size = key.unique(return_inverse=True, return_counts=True)
        out = out / size[number]
    return out


def _mean_scales(totals: Tensor, reduction: str, different_weight: float) -> Tensor:
    """Factors (2, N) of the per-image sums (same, different) with total weights ``totals`` (2, N)."""
    if reduction == "pairs":
        totals = totals.sum(0, keepdim=True).expand(2, -1)
    present = totals > 0
    scales = torch.where(present, 1 / (totals * present.sum(1, keepdim=True)), 0)
    return scales * scales.new_tensor([[1.0], [different_weight]])
