"""The terms of the variational loss as pure functions of tensors; torch is all they need.

Shapes: N images of a batch, (H, W) the label map.

``label_map`` and ``logits`` are float (N, H, W): the network's one real output channel, before the ReLU.
``instance_ids`` is int64 (N, H, W): 0 background, k >= 1 instance, -1 ignored; where it may be None, it only tells the
ignored pixels. Every loss is a scalar, in float32 for float16 and bfloat16 inputs and otherwise in the input's dtype,
that has a gradient path even where no pixel takes part. It is finite for finite inputs, of at most 1e38 for the first
two terms. A shape, a dtype or an option that does not fit raises ValueError. Equations and sections are those of Yuan,
Chen and Li, Deep Variational Instance Segmentation, 2020.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .exact_pairs import exact_pairs
from .options import check_range
from .sampled_pairs import instance_areas, random_pairs, stratified_pairs

# for each kind of pairs the function that sums over them, and its own options with their defaults
_PAIRS: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], dict[str, Any]]] = {
    "exact": (exact_pairs, {"window": 0}),
    "stratified": (stratified_pairs, {"window": 129, "center": 8, "dilation": 8}),
    "random": (random_pairs, {"num_pairs": 65_536, "generator": None}),
}


def huber_loss(x: Tensor, theta: float = 0.1) -> Tensor:
    """The paper's L_h (sec. 3.3) of x >= 0, elementwise: x^2 / (2 theta) below theta > 0, then x - theta / 2."""
    _check_positive("theta", theta)
    return F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none", beta=theta)


def binary_loss(
    logits: Tensor,
    instance_ids: Tensor,
    *,
    margin: float = 2.0,
    theta: float = 0.1,
    balance: bool = True,
    area_exponent: float = 0.0,
) -> Tensor:
    """Eq. 3: background at most 0, foreground at least ``margin``.

    Args:
        logits: the map *before* the ReLU, which would stop the gradient of foreground below 0.
        margin, theta: the paper's m1, in label units, and that of :func:`huber_loss`; > 0.
        balance: average over the foreground and over the background pixels of the batch and add the two (a class
            without pixels adds 0), or over all valid pixels of the batch.
        area_exponent: a foreground pixel weighs |its instance|^-area_exponent, scaled so that the foreground of the
            batch weighs as many pixels as it has: with 0, eq. 3, every pixel weighs the same, with 1 every instance
            does; >= 0.
    """
    _check_maps("binary_loss", "logits", logits, instance_ids)
    _check_positive("margin", margin)
    check_range(area_exponent=area_exponent)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    foreground, background = instance_ids > 0, instance_ids == 0
    violation = torch.where(foreground, margin - logits, torch.where(background, logits, 0))
    loss = huber_loss(violation.relu(), theta)
    weight = torch.ones_like(loss)
    if area_exponent:
        areas = instance_areas(_small_ids(instance_ids), foreground).double()
        shares = torch.softmax(-area_exponent * areas.log(), dim=0)  # the powers alone may all be 0
        weight = weight.masked_scatter(foreground, (shares * len(shares)).to(loss.dtype))
    if balance:
        return _masked_mean(loss, foreground, weight) + _masked_mean(loss, background)
    return _masked_mean(loss, foreground | background, weight)


def permutation_invariant_loss(
    label_map: Tensor,
    instance_ids: Tensor,
    *,
    margin: float = 1.0,
    theta: float = 0.1,
    pairs: str = "exact",
    reduction: str = "instances",
    different_weight: float = 1.0,
    window: int | Sequence[tuple[int, float]] | None = None,
    background_as_instance: bool = False,
    center: int | None = None,
    dilation: int | None = None,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Eqs. 4-5: labels equal within an instance, at least ``margin`` apart between instances of an image.

    A pair with label distance d costs L_h(d) within an instance and L_h(ReLU(margin - d)) between two. Pairs are
    unordered and join foreground pixels of one image; ignored pixels form none. Where two labels are equal, the second
    cost has a kink; ``exact`` takes the slope of the order in which pixels come, the sampled modes 0. The loss can be
    differentiated once. ValueError also for an option that does not belong to ``pairs``.

    Args:
        margin, theta: the paper's m2, in label units, and that of :func:`huber_loss`; > 0.
        pairs: ``"exact"``, all pairs, by sorting; ``"stratified"``, the paper's sampling (sec. 4): offsets within
            ``window``, all of them up to ``center`` pixels (Chebyshev distance), every ``dilation``-th beyond;
            ``"random"``, ``num_pairs`` pairs of each image, drawn uniformly with replacement.
        reduction: ``"pairs"``: the mean over the pairs of an image, different-instance pairs multiplied by
            ``different_weight``, then the mean over the images that have a pair. ``"instances"``: a pixel weighs 1 /
            |its instance| and a pair the product of its pixels' weights; the sums over same-instance and over
            different-instance pairs of an image are each divided by their own total weight and averaged over the images
            that have such a pair; the result is same + different_weight * different.
        different_weight: factor of the different-instance pairs; >= 0.
        window: ``exact``: side in map pixels, even, of overlapping tiles (stride window / 2, from the upper left
            corner); only pairs that share a tile count, (tiles shared) / sqrt(T1 T2) times with T1, T2 = 1, 2 or 4
            tiles around each pixel, so 1 time where they share all. None or 0, or as large as the map: every pair once.
            A list of (window, factor) adds the losses of several windows, each times its factor. ``stratified``: side
            of the sampling window, odd, 129 by default.
        background_as_instance: let the background of an image form pairs as one more instance.
        center, dilation: ``stratified``: 8 by default.
        num_pairs, generator: ``random``: pairs drawn for each image, 65,536 by default; torch's, None the global one.
    """
    _check_maps("permutation_invariant_loss", "label_map", label_map, instance_ids)
    _check_positive("margin", margin)
    _check_positive("theta", theta)
    check_range(different_weight=different_weight)
    if reduction not in ("instances", "pairs"):
        raise ValueError(f"reduction must be 'instances' or 'pairs', not {reduction!r}")
    if pairs not in _PAIRS:
        raise ValueError(f"pairs must be one of {', '.join(map(repr, _PAIRS))}, not {pairs!r}")
    compute, options = _PAIRS[pairs]
    given = {"window": window, "center": center, "dilation": dilation, "num_pairs": num_pairs, "generator": generator}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - options.keys():
        raise ValueError(f"{name} does not apply to pairs={pairs!r}: leave it at its default")
    options = options | given | dict(reduction=reduction, different_weight=different_weight)
    # Sums over pairs need float64, which Apple's GPUs lack.
    work = torch.device("cpu") if label_map.device.type == "mps" else label_map.device
    values = label_map.detach().to(work, torch.promote_types(label_map.dtype, torch.float32))
    ids = _small_ids(instance_ids.to(work))
    foreground = ids >= 0 if background_as_instance else ids > 0
    with torch.autocast(work.type, enabled=False):
        loss, gradient = compute(values, ids, foreground, margin=margin, theta=theta, **options)
    return _GivenGradient.apply(label_map, loss.to(label_map.device, values.dtype), gradient.to(values.dtype))


class _GivenGradient(torch.autograd.Function):
    """A loss as a function of its inputs whose derivative was computed with it."""

    @staticmethod
    def forward(ctx, inputs: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.like = inputs.dtype, inputs.device
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        # Multiply before the cast: a pixel's share of a mean underflows in float16, unless the gradient
        # scaler's factor, which arrives in grad_output, has been applied.
        dtype, device = ctx.like
        return (gradient * grad_output.to(gradient.device, gradient.dtype)).to(device, dtype), None, None


def mumford_shah_loss(
    label_map: Tensor, instance_ids: Tensor | None = None, *, kind: str = "cauchy", scale: float = 1.0
) -> Tensor:
    """Mumford-Shah regularization of ReLU(label_map), the mean over the valid pixels of the batch: smooth inside, free
    to jump at edges.

    With g = (f(y, x) - f(y, x + 1))^2 + (f(y, x) - f(y + 1, x))^2, f = ReLU(label_map), the cost of a pixel is
    log(g + 1) for ``"cauchy"`` (eq. 7), min(g, 1) for ``"truncated"`` (eq. 6) and 1 - exp(-g / (2 scale^2)) for
    ``"welsch"``, which approaches the count of edge pixels as ``scale`` is lowered during training. Differences across
    the border of the map and those that involve an ignored pixel count as 0. ``scale`` > 0 is in label units.
    """
    _check_maps("mumford_shah_loss", "label_map", label_map, instance_ids)
    _check_positive("scale", scale)
    f = label_map.to(torch.promote_types(label_map.dtype, torch.float32))
    valid = torch.ones_like(f, dtype=torch.bool) if instance_ids is None else instance_ids >= 0
    f = torch.where(valid, f, 0).relu()
    unit = scale if kind == "welsch" else 1.0
    # Larger jumps, whose squares are infinite, have no gradient worth having.
    right, down = ((f.diff(dim=dim) / unit).clamp(-1e18, 1e18).square() for dim in (2, 1))
    right, down = right * (valid[:, :, 1:] & valid[:, :, :-1]), down * (valid[:, 1:] & valid[:, :-1])
    g = F.pad(right, (0, 1)) + F.pad(down, (0, 0, 0, 1)) + f * 0  # NaN where a label is infinite
    if kind == "cauchy":
        cost = g.log1p()
    elif kind == "truncated":
        cost = g.clamp(max=1)
    elif kind == "welsch":
        cost = -torch.expm1(-g / 2)
    else:
        raise ValueError(f"kind must be 'cauchy', 'truncated' or 'welsch', not {kind!r}")
    return _masked_mean(cost, valid)


def quantization_loss(label_map: Tensor, instance_ids: Tensor | None = None) -> Tensor:
    """Distance to the nearest integer (sec. 3.3) of the labels that are predicted as foreground: the mean of
    |f - round(f)| over the valid pixels of the batch with f = label_map > 0, at most 0.5; 0 without any."""
    _check_maps("quantization_loss", "label_map", label_map, instance_ids)
    f = label_map.to(torch.promote_types(label_map.dtype, torch.float32))
    # Written so that NaN takes part: it must reach the loss.
    counted = ~(f.detach() <= 0)
    if instance_ids is not None:
        counted = counted & (instance_ids >= 0)
    f = torch.where(counted, f, 0)
    return _masked_mean((f - f.detach().round()).abs(), counted)


def _masked_mean(loss: Tensor, mask: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return (torch.where(mask, loss, 0) * (weight / mask.sum().clamp(min=1))).sum()  # the sum alone may be infinite


def _small_ids(instance_ids: Tensor) -> Tensor:
    """The same instances by numbers that may be multiplied by the number of images."""
    if not instance_ids.numel() or int(instance_ids.max()) < 2**31:
        return instance_ids
    return torch.where(instance_ids > 0, instance_ids.unique(return_inverse=True)[1] + 1, instance_ids)


def _check_maps(function: str, name: str, label_map: Tensor, instance_ids: Tensor | None) -> None:
    if label_map.dim() != 3 or not label_map.is_floating_point():
        raise ValueError(f"{function}: {name} must be float (N, H, W), not {label_map.dtype} {tuple(label_map.shape)}")
    if instance_ids is None:
        return
    if instance_ids.shape != label_map.shape or instance_ids.dtype != torch.int64:
        given = f"{instance_ids.dtype} {tuple(instance_ids.shape)}"
        raise ValueError(f"{function}: instance_ids must be int64 {tuple(label_map.shape)} like {name}, not {given}")
    if (where := instance_ids.device) != label_map.device:
        raise ValueError(f"{function}: instance_ids is on {where} but {name} on {label_map.device}; move one")


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a positive number, not {value}")
