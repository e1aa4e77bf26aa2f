"""How well a label map keeps instances apart, before any grouping.

Shapes: (h, w) the map's grid, P foreground cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dvis_d2.modeling.mean_shift import mean_shift_1d_batched


@dataclass(frozen=True)
class Separation:
    """Numbers of pairs of cells from different instances, unordered: near and far ones, and how many of each
    have labels that differ by more than the threshold. Images add up."""

    near: int = 0
    near_apart: int = 0
    far: int = 0
    far_apart: int = 0

    def __add__(self, other: Separation) -> Separation:
        return Separation(
            self.near + other.near,
            self.near_apart + other.near_apart,
            self.far + other.far,
            self.far_apart + other.far_apart,
        )

    def shares(self) -> dict[str, float]:
        """The shares of near and of far pairs that are apart; NaN where there is no such pair."""
        return {
            "near": self.near_apart / self.near if self.near else float("nan"),
            "far": self.far_apart / self.far if self.far else float("nan"),
        }


@torch.no_grad()
def separation(label_map: Tensor, instance_ids: Tensor, *, reach: int = 3, threshold: float = 0.5) -> Separation:
    """Count, exactly, the pairs of cells of different instances whose labels differ by more than ``threshold``.

    Args:
        label_map: float (h, w), after the ReLU; must be finite on the instances.
        instance_ids: int64 (h, w), 0 background, -1 ignored; neither is in a pair.
        reach: a pair is near where the Euclidean distance of its cells is at most this many cells, far otherwise.
        threshold: in label units; halfway to the margin between instances, where a pair is nearer to being
            told apart than to being one.

    Raises:
        ValueError: the two maps differ in shape.
    """
    if label_map.shape != instance_ids.shape:
        raise ValueError(f"label_map {tuple(label_map.shape)} and instance_ids {tuple(instance_ids.shape)} differ")
    near = near_apart = 0
    height, width = label_map.shape
    for dy in range(min(reach, height - 1) + 1):
        for dx in range(-reach if dy else 1, reach + 1):
            if dy * dy + dx * dx > reach * reach or abs(dx) >= width:
                continue
            here = slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0))
            there = slice(dy, height), slice(max(dx, 0), width + min(dx, 0))
            a, b = instance_ids[here], instance_ids[there]
            pair = (a > 0) & (b > 0) & (a != b)
            near += int(pair.sum())
            near_apart += int((pair & ((label_map[here] - label_map[there]).abs() > threshold)).sum())

    foreground = instance_ids > 0
    values, ids = label_map[foreground].double(), instance_ids[foreground]
    pairs, close = _pairs_and_close_pairs(values, threshold)
    for k in ids.unique().tolist():
        same_pairs, same_close = _pairs_and_close_pairs(values[ids == k], threshold)
        pairs, close = pairs - same_pairs, close - same_close
    return Separation(near, near_apart, pairs - near, pairs - close - near_apart)


def _pairs_and_close_pairs(values: Tensor, threshold: float) -> tuple[int, int]:
    """Unordered pairs among float64 (P,), and those that differ by at most ``threshold``."""
    values = values.sort().values
    partners = torch.searchsorted(values, values + threshold, right=True) - torch.arange(1, len(values) + 1).to(
        values.device
    )
    return len(values) * (len(values) - 1) // 2, int(partners.sum())


@torch.no_grad()
def count_modes(
    label_map: Tensor, *, bandwidths: Sequence[float], foreground_threshold: float, min_area: int
) -> list[int]:
    """The number of mean-shift modes of one label map float (h, w) at every bandwidth.

    Counted are modes that hold at least ``min_area`` of the cells above ``foreground_threshold``: no smaller one
    can become a proposal, and the edges of objects, where labels climb through other objects' values, leave
    many.
    """
    values = label_map[torch.isfinite(label_map) & (label_map > foreground_threshold)].float()
    sets = torch.arange(len(bandwidths), device=values.device).repeat_interleave(len(values))
    modes, mode_sets, assignment = mean_shift_1d_batched(values.repeat(len(bandwidths)), sets, bandwidths)
    held = torch.bincount(assignment[assignment >= 0], minlength=len(modes))
    return torch.bincount(mode_sets[held >= min_area], minlength=len(bandwidths)).tolist()
