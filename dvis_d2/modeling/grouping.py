"""From label map to proposals: candidate masks on the map's grid, ranked (paper, section 4).

Mean shift cuts the foreground's values into levels; they and the steps between neighboring cells cut the foreground
into connected *superpixels*, of which every candidate is a union (docs/guide/grouping.md).

Shapes: N images, (h, w) the map's grid, K proposals, B bandwidths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .candidates import SOURCES, Candidates, find_candidates
from .mean_shift import mean_shift_1d_batched
from .options import check_range

_FAR = -1e30


@dataclass
class Grouping:
    """The proposals of one image, best first. All on the label map's device."""

    masks: Tensor  # bool (K, h, w)
    values: Tensor  # float32 (K,), the mean label inside the mask
    scores: Tensor  # float32 (K,) in [0, 1], descending
    soft: Tensor  # float32 (K, h, w) in [0, 1], see `soft_membership`
    levels: Tensor  # int64 (h, w), each cell's mean-shift level at the least bandwidth, from 0 up; -1 for background

    def __len__(self) -> int:
        return len(self.masks)


@torch.no_grad()
def group_label_map(
    label_map: Tensor,
    *,
    bandwidths: Sequence[float] = (0.9, 0.4),
    foreground_threshold: float = 1.0,
    candidates: Sequence[str] = SOURCES,
    min_area: int = 2,
    min_part_ratio: float = 0.05,
    link_thresholds: Sequence[float] = (0.25,),
    nms_threshold: float = 0.8,
    max_proposals: int = 100,
    valid: Sequence[tuple[int, int]] | None = None,
) -> list[Grouping]:
    """Proposals of every image of a batch.

    Args:
        label_map: float (N, h, w), with or without the ReLU. Cells that are not finite are background.
        bandwidths: of the mean shift, in label units (the margin between instances is 1); each gives levels of its own.
        foreground_threshold: cells with a label up to this are background.
        candidates: which regions to offer; of equal masks that of the source named first is kept.
            "levels": all cells of a mean-shift level (objects in several parts stay whole).
            "parts": the connected parts of each level on their own (objects that share a value come apart).
            "linked": components of 4-neighbors whose labels differ by less than one of `link_thresholds` (no mean
            shift: follows a label that drifts inside an object).
        min_area: smallest part of a level, and smallest mask of "linked", in cells, where other foreground touches it
            (4 neighbors): soft borders leave such specks. What stands alone may have any size.
        min_part_ratio: parts of a level below this share of its largest part are in no candidate.
        link_thresholds: in label units; each gives components of its own.
        nms_threshold: of two masks with a higher IoU than this, and of equal ones, that of the lower score is dropped.
        max_proposals: K at most.
        valid: for each image the (rows, columns) of the map that are image, not padding; None: all.

    Returns:
        a `Grouping` for each image; docs/guide/grouping.md derives the score

            max(0, contrast - spread) * interior * (1 + agreement) / 2 * wholeness * (1 - belonging / 2)

    ValueError for another shape, an unknown source of candidates, or none, no bandwidth or no link threshold, and for a
    number out of its range.
    """
    if label_map.ndim != 3:
        raise ValueError(f"label_map must be (N, h, w), got {tuple(label_map.shape)}")
    if not candidates or not set(candidates) <= set(SOURCES):
        raise ValueError(f"candidates must name some of {SOURCES}, got {tuple(candidates)}")
    if not bandwidths or not link_thresholds:
        raise ValueError("bandwidths and link_thresholds must each name at least one, in label units")
    for link_threshold in link_thresholds:
        check_range(link_thresholds=link_threshold)
    check_range(-math.inf, foreground_threshold=foreground_threshold)
    check_range(min_area=min_area, max_proposals=max_proposals)
    check_range(0, 1, min_part_ratio=min_part_ratio, nms_threshold=nms_threshold)
    labels = label_map.float()
    foreground = torch.isfinite(labels) & (labels > foreground_threshold)
    labels = labels.nan_to_num(*(_FAR,) * 3)  # a label that is not finite is far from every value
    for image, (rows, columns) in enumerate(valid or ()):
        foreground[image, rows:] = False
        foreground[image, :, columns:] = False
    levels = _find_levels(labels, foreground, bandwidths)

    # The one trip to the host.
    host_labels = labels.cpu().numpy()
    host_levels, host_foreground = levels.cpu().numpy(), foreground.cpu().numpy()
    finest = levels[int(np.argmin(bandwidths))]
    options: dict[str, Any] = dict(sources=candidates, min_area=min_area, min_part_ratio=min_part_ratio)
    options |= dict(link_thresholds=link_thresholds, nms_threshold=nms_threshold, max_candidates=max_proposals)
    groupings = []
    for image, own in enumerate(host_labels):
        found = find_candidates(own, host_foreground[image], host_levels[:, image], **options)
        groupings.append(_to_grouping(found, labels[image], finest[image]))
    return groupings


def soft_membership(label_map: Tensor, masks: Tensor, values: Tensor) -> Tensor:
    """How far labels f, float (h, w), agree with the values, float (K,), of instances with masks bool (K, h, w):
    clamp(1 - |f - value|, 0, 1), float32 (K, h, w); zero where f is not finite, and beyond the mask dilated by one cell
    (8 neighbors): the falling edge serves the upsampling, and other objects of the same value do not leak in."""
    soft = (1 - (label_map.float() - values.float()[:, None, None]).abs()).clamp(0, 1).nan_to_num(0.0)
    near = F.max_pool2d(masks[:, None].float(), 3, stride=1, padding=1)[:, 0] if len(masks) else masks
    return soft * near


def _find_levels(labels: Tensor, foreground: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """int64 (B, N, h, w): the level of every foreground cell, ascending by label from 0; -1 for background."""
    count, height, width = labels.shape
    num_sets = count * len(bandwidths)
    cells = foreground.flatten().nonzero()[:, 0]
    set_ids = torch.cat([cells // (height * width) + b * count for b in range(len(bandwidths))])
    _, mode_sets, assignment = mean_shift_1d_batched(
        labels.flatten().index_select(0, cells).repeat(len(bandwidths)),
        set_ids,
        [bandwidth for bandwidth in bandwidths for _ in range(count)],
    )
    first_mode = torch.searchsorted(mode_sets, torch.arange(num_sets, device=labels.device))
    levels = torch.full((len(bandwidths), labels.numel()), -1, dtype=torch.int64, device=labels.device)
    levels.index_copy_(1, cells, (assignment - first_mode[set_ids]).view(len(bandwidths), len(cells)))
    return levels.view(len(bandwidths), count, height, width)


def _to_grouping(candidates: Candidates, labels: Tensor, levels: Tensor) -> Grouping:
    """Dense tensors, made on the labels' device, from lists of cells: much less to copy there."""
    arrays = candidates.values, candidates.scores, candidates.inside, candidates.ring
    values, scores, inside, ring = (torch.from_numpy(array).to(labels.device) for array in arrays)
    masks = torch.zeros(len(values), *labels.shape, dtype=torch.bool, device=labels.device)
    soft = torch.zeros(masks.shape, device=labels.device)
    masks.view(-1)[inside] = True
    cells, size = torch.cat([inside, ring]), max(1, labels.numel())
    distance = (labels.flatten().index_select(0, cells % size) - values.index_select(0, cells // size)).abs()
    soft.view(-1)[cells] = (1 - distance).clamp_min(0)
    return Grouping(masks, values, scores, soft, levels)
