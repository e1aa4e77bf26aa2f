"""The terms of the variational loss as pure functions of tensors; torch is all they need.

Shapes:
    N, H, W: images of a batch, height and width of the label map.

``label_map`` and ``logits`` are float (N, H, W): the network's one real output channel, before the ReLU.
``instance_ids`` is int64 (N, H, W): 0 background, k >= 1 instance, -1 ignored. Every function returns a
scalar, in float32 for float16 and bfloat16 inputs and otherwise in the input's dtype, that is finite for
finite inputs and has a gradient path even where no pixel takes part. Equations and sections are those of
Yuan, Chen and Li, Deep Variational Instance Segmentation, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_d2.modeling.checks import check_maps, check_positive
from dvis_d2.modeling.pairs.fused_gradient import accumulation_dtype
from dvis_d2.modeling.pairs.pairwise import exact_pair_loss
from dvis_d2.modeling.pairs.sampled_pairs import random_pair_loss, stratified_pair_loss
from dvis_d2.modeling.pairs.tiles import window_list

_PAIR_OPTIONS = {
    "exact": {"window", "same_global"},
    "stratified": {"window", "centre", "dilation", "density_weighted"},
    "random": {"num_pairs", "generator"},
}


def huber_loss(x: Tensor, theta: float = 0.1) -> Tensor:
    """The paper's L_h (sec. 3.3), elementwise: x^2 / (2 theta) below theta, x - theta / 2 from there on.

    Args:
        x: float tensor of any shape, x >= 0.
        theta: where the parabola meets the line; > 0.
    """
    check_positive("theta", theta)
    return torch.where(x < theta, x * x / (2 * theta), x - theta / 2)


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
        logits: float (N, H, W), the map *before* the ReLU, which would stop the gradient of foreground below
        0.
        instance_ids: int64 (N, H, W).
        margin: the paper's m1, in label units; > 0.
        theta: see :func:`huber_loss`.
        balance: True averages over the foreground pixels of the batch and over its background pixels and adds
            the two (a class without pixels adds 0); False averages over all valid pixels of the batch.
        area_exponent: a foreground pixel weighs |its instance|^-area_exponent, scaled so that the foreground of the
            batch weighs as many pixels as it has: with 0, eq. 3, every pixel weighs the same, with 1 every instance
            does; >= 0.

    Raises:
        ValueError: if a shape, a dtype or an option does not fit.
    """
    check_maps("binary_loss", "logits", logits, instance_ids)
    check_positive("margin", margin)
    if not area_exponent >= 0:
        raise ValueError(f"area_exponent must be >= 0, not {area_exponent}")
    logits = logits.to(accumulation_dtype(logits))
    foreground, background = instance_ids > 0, instance_ids == 0
    violation = torch.where(foreground, margin - logits, torch.where(background, logits, 0))
    loss = huber_loss(violation.relu(), theta)
    if area_exponent:
        loss = torch.where(foreground, _area_weights(instance_ids, area_exponent, loss.dtype) * loss, loss)
    if balance:
        return _masked_mean(loss, foreground) + _masked_mean(loss, background)
    return _masked_mean(loss, foreground | background)


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
    same_global: bool = False,
    background_as_instance: bool = False,
    weights: Tensor | None = None,
    centre: int | None = None,
    dilation: int | None = None,
    density_weighted: bool = False,
    num_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Eqs. 4-5: labels equal within an instance, at least ``margin`` apart between instances of an image.

    A pair with label distance d costs L_h(d) within an instance and L_h(ReLU(margin - d)) between two. Pairs
    are unordered and join foreground pixels of one image; ignored pixels form none. Where two labels are
    equal, the second cost has a kink; ``exact`` takes the slope of the order in which pixels come, the
    sampled modes 0.

    Args:
        label_map: float (N, H, W).
        instance_ids: int64 (N, H, W).
        margin: the paper's m2, in label units; > 0.
        theta: see :func:`huber_loss`.
        pairs: ``"exact"``, all pairs, by sorting; ``"stratified"``, the paper's sampling (sec. 4): offsets
            within ``window``, all of them up to ``centre`` pixels (Chebyshev distance), every ``dilation``-th
            beyond; ``"random"``, ``num_pairs`` pairs of each image, drawn uniformly with replacement.
        reduction: ``"pairs"``: the mean over the pairs of an image, different-instance pairs multiplied by
            ``different_weight``, then the mean over the images that have a pair. ``"instances"``: a pixel
            weighs 1 / |its instance| and a pair the product of its pixels' weights; the sums over
            same-instance and over different-instance pairs of an image are each divided by their own total
            weight and averaged over the images that have such a pair; the result is same + different_weight *
            different.
        different_weight: factor of the different-instance pairs; >= 0.
        window: ``exact``: side in map pixels, even, of overlapping tiles (stride window / 2, from the upper
            left corner); only pairs that share a tile count, (tiles shared) / sqrt(T1 T2) times with T1, T2 =
            1, 2 or 4 tiles around each pixel, so 1 time where they share all. None or 0, or as large as the
            map: every pair once. A list of (window, factor) adds the losses of several windows, each times
            its factor. ``stratified``: side of the sampling window, odd, 129 by default.
        same_global: ``exact`` with reduction ``"instances"``: take the same-instance term over the whole map
            (times the sum of the factors) and only the different-instance term within the windows.
        background_as_instance: let the background of an image form pairs as one more instance.
        weights: float (N, H, W), >= 0, constant: multiplies each pixel's weight in all pairs and totals; a
            pixel of weight 0 is left out. |its instance| stays the number of the remaining pixels.
        centre: ``stratified``: 8 by default.
        dilation: ``stratified``: 8 by default.
        density_weighted: ``stratified``: weigh the dilated offsets by dilation^2, the number of offsets
            that each stands for.
        num_pairs: ``random``: pairs drawn for each image, 65,536 by default.
        generator: ``random``: source of the draws, on the device of ``label_map``.

    Raises:
        ValueError: if a shape, a dtype or an option does not fit, or an option does not belong to ``pairs``.
    """
    check_maps("permutation_invariant_loss", "label_map", label_map, instance_ids)
    check_positive("margin", margin)
    check_positive("theta", theta)
    if not different_weight >= 0:
        raise ValueError(f"different_weight must be >= 0, not {different_weight}")
    if reduction not in ("instances", "pairs"):
        raise ValueError(f"reduction must be 'instances' or 'pairs', not {reduction!r}")
    given = {
        "window": window is not None,
        "same_global": same_global,
        "centre": centre is not None,
        "dilation": dilation is not None,
        "density_weighted": density_weighted,
        "num_pairs": num_pairs is not None,
        "generator": generator is not None,
    }
    if pairs not in _PAIR_OPTIONS:
        raise ValueError(f"pairs must be one of {', '.join(map(repr, _PAIR_OPTIONS))}, not {pairs!r}")
    for name, is_given in given.items():
        if is_given and name not in _PAIR_OPTIONS[pairs]:
            raise ValueError(f"{name} does not apply to pairs={pairs!r}: leave it at its default")

    foreground = instance_ids >= 0 if background_as_instance else instance_ids > 0
    if weights is not None:
        if weights.shape != label_map.shape or not weights.is_floating_point():
            raise ValueError(
                f"weights must be float with label_map's shape {tuple(label_map.shape)}, not "
                f"{weights.dtype} {tuple(weights.shape)}"
            )
        foreground = foreground & (weights > 0)
    common = {
        "margin": margin,
        "theta": theta,
        "reduction": reduction,
        "different_weight": different_weight,
        "foreground": foreground,
        "weights": weights,
    }
    with torch.autocast(label_map.device.type, enabled=False):
        if pairs == "exact":
            windows = window_list(window)
            if same_global and reduction != "instances":
                raise ValueError("same_global needs reduction='instances': 'pairs' has one mean for both terms")
            return exact_pair_loss(label_map, instance_ids, windows=windows, same_global=same_global, **common)
        if pairs == "stratified":
            window, centre, dilation = (
                default if given is None else given for given, default in ((window, 129), (centre, 8), (dilation, 8))
            )
            if not isinstance(window, int) or window < 3 or window % 2 == 0:
                raise ValueError(f"window must be one odd number >= 3 for pairs='stratified', not {window}")
            if centre < 1 or dilation < 1:
                raise ValueError(f"centre and dilation must be >= 1, not {centre} and {dilation}")
            return stratified_pair_loss(
                label_map,
                instance_ids,
                window=window,
                centre=centre,
                dilation=dilation,
                density_weighted=density_weighted,
                **common,
            )
        num_pairs = 65_536 if num_pairs is None else num_pairs
        if num_pairs < 1:
            raise ValueError(f"num_pairs must be >= 1, not {num_pairs}")
        return random_pair_loss(label_map, instance_ids, num_pairs=num_pairs, generator=generator, **common)


def mumford_shah_loss(
    label_map: Tensor,
    instance_ids: Tensor | None = None,
    *,
    kind: str = "cauchy",
    mu: float = 1.0,
    nu: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Mumford-Shah regularisation of ReLU(label_map): smooth inside, free to jump at edges.

    With g = (f(y, x) - f(y, x + 1))^2 + (f(y, x) - f(y + 1, x))^2, f = ReLU(label_map), the cost of a pixel
    is log(g + 1) for ``"cauchy"`` (eq. 7), min(mu g, nu) for ``"truncated"`` (eq. 6) and 1 - exp(-g / (2
    scale^2)) for ``"welsch"``, which approaches the count of edge pixels as ``scale`` is lowered during
    training. Differences across the border of the map and those that involve an ignored pixel count as 0.

    Args:
        label_map: float (N, H, W).
        instance_ids: int64 (N, H, W), which only tells the ignored pixels; None if there are none.
        kind: ``"cauchy"``, ``"truncated"`` or ``"welsch"``.
        mu, nu: slope and cap of ``"truncated"``; > 0.
        scale: of ``"welsch"``, in label units; > 0.

    Returns:
        Mean over the valid pixels of the batch.

    Raises:
        ValueError: if a shape, a dtype or an option does not fit.
    """
    check_maps("mumford_shah_loss", "label_map", label_map, instance_ids)
    for name, value in (("mu", mu), ("nu", nu), ("scale", scale)):
        check_positive(name, value)
    f = label_map.to(accumulation_dtype(label_map))
    valid = torch.ones_like(f, dtype=torch.bool) if instance_ids is None else instance_ids >= 0
    f = torch.where(valid, f, 0).relu()
    right = f.diff(dim=2).square() * (valid[:, :, 1:] & valid[:, :, :-1])
    down = f.diff(dim=1).square() * (valid[:, 1:] & valid[:, :-1])
    g = F.pad(right, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    if kind == "cauchy":
        cost = g.log1p()
    elif kind == "truncated":
        cost = (mu * g).clamp(max=nu)
    elif kind == "welsch":
        cost = -torch.expm1(-g / (2 * scale * scale))
    else:
        raise ValueError(f"kind must be 'cauchy', 'truncated' or 'welsch', not {kind!r}")
    return _masked_mean(cost, valid)


def quantization_loss(label_map: Tensor, instance_ids: Tensor | None = None) -> Tensor:
    """Distance to the nearest integer (sec. 3.3) of the labels that are predicted as foreground.

    Args:
        label_map: float (N, H, W).
        instance_ids: int64 (N, H, W), which only tells the ignored pixels; None if there are none.

    Returns:
        Mean of |f - round(f)| over the valid pixels of the batch with f = label_map > 0; 0 if there are none.
        In label units, at most 0.5.

    Raises:
        ValueError: if a shape or a dtype does not fit.
    """
    check_maps("quantization_loss", "label_map", label_map, instance_ids)
    f = label_map.to(accumulation_dtype(label_map))
    # Written so that NaN takes part: it must reach the loss.
    counted = ~(f.detach() <= 0)
    if instance_ids is not None:
        counted = counted & (instance_ids >= 0)
    f = torch.where(counted, f, 0)
    return _masked_mean((f - f.detach().round()).abs(), counted)


def _area_weights(instance_ids: Tensor, exponent: float, dtype: torch.dtype) -> Tensor:
    """(N, H, W): |instance|^-exponent of every foreground pixel, of mean 1 over the batch; 0 elsewhere."""
    foreground = instance_ids > 0
    image = torch.arange(len(instance_ids), device=instance_ids.device)[:, None, None]
    keys = image * (instance_ids.amax() + 1) + instance_ids if instance_ids.numel() else instance_ids
    _, instance, areas = keys[foreground].unique(return_inverse=True, return_counts=True)
    weights = areas.to(dtype)[instance] ** -exponent
    return torch.zeros_like(instance_ids, dtype=dtype).masked_scatter(foreground, weights / weights.mean())


def _masked_mean(loss: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, loss, 0).sum() / mask.sum().clamp(min=1)
