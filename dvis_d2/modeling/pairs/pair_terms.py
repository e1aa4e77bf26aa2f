"""The sums of eqs. 4-5 over all pairs of sorted segments, with their gradients, from prefix sums.

Shapes and names as in :mod:`dvis_d2.modeling.pairs.sorted_segments`. For entry i at position x with weight w_i, the
partners within a distance are those between ``first`` and ``last``; W and X are the prefix sums of w and w *
x. Most of the time goes to memory, so the arithmetic overwrites the temporary tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dvis_d2.modeling.pairs.sorted_segments import Segments, partners_within, take


def same_term(segments: Segments, theta: float) -> tuple[Tensor, Tensor]:
    """Sum of L_h(|vi - vj|) over the pairs of every segment.

    With h' = min(d / theta, 1): L_h(d) = d h'(d) / 2 + max(d - theta, 0) / 2, and the sum of d h'(d) over the
    pairs is the sum of value times slope over the entries.

    Returns:
        float64 (E,) each: shares of the loss, which make sense in sums over whole segments only, and the
        derivative of the sum by the value.
    """
    # Values relative to the lowest of the segment, positions beyond the reach of cut gaps too
    value = segments.value - take(take(segments.value, segments.entries.bounds[:-1]), segments.entries.number)
    near = partners_within(segments, theta)
    # Sum of w_j (xi - xj) over the partners within theta, in which the entry itself counts nothing
    distance = (near.weight_last - near.weight_first).mul_(segments.position)
    distance.sub_(near.position_last).add_(near.position_first)
    # Weight of the partners farther than theta: below, then below minus above
    start, end = segments.weight_bounds()
    far_below = near.weight_first.sub_(start)
    far = near.weight_last.sub_(end).add_(far_below)
    slope = distance.div_(theta).add_(far)
    loss = far.add_(slope).mul_(value).sub_(far_below, alpha=theta).mul_(segments.weight).div_(2)
    return loss, slope.mul_(segments.weight)


def different_term(segments: Segments, margin: float, theta: float) -> tuple[Tensor, Tensor]:
    """Sum of L_h(ReLU(margin - |vi - vj|)) over the pairs of every segment; returns as :func:`same_term`.

    With u = margin - d and h' = (ReLU(u) - ReLU(u - theta)) / theta:
    L_h(u) = (margin - d) h' / 2 + ReLU(u - theta) / 2.
    """
    down, up = _hinge_sums(segments, margin)
    flat = margin - theta  # below this distance the loss is linear
    if flat > 0:
        flat_down, flat_up = _hinge_sums(segments, flat)
        down.sub_(flat_down)
        up.sub_(flat_up)
    slope = up.sub_(down).div_(theta)
    loss = down.mul_(margin / theta).addcmul_(segments.position, slope)
    if flat > 0:
        loss.add_(flat_down)
    return loss.mul_(segments.weight).div_(2), slope.mul_(segments.weight)


def _hinge_sums(segments: Segments, distance: float) -> tuple[Tensor, Tensor]:
    """Sums of w_j ReLU(distance - |xi - xj|) over the partners below every entry, and above; (E,) each."""
    w, wx, x = segments.prefix_weight, segments.prefix_position, segments.position
    near = partners_within(segments, distance)
    below = torch.sub(w[:-1], near.weight_first, out=near.weight_first)
    down = torch.sub(wx[:-1], near.position_first, out=near.position_first)
    down.addcmul_(below, x, value=-1).add_(below, alpha=distance)
    above = near.weight_last.sub_(w[1:])
    up = torch.sub(wx[1:], near.position_last, out=near.position_last)
    up.addcmul_(above, x).add_(above, alpha=distance)
    return down, up
