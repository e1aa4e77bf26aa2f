"""A perfect label map: the ground truth's instances, properly colored, on the label map's grid.

What comes out of grouping it is what grouping and resolution alone allow, whatever the network.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_LABEL = 2.0  # m1 of eq. 3: foreground is at least this far from background
LABEL_STEP = 1.0  # m2 of eq. 5: different instances are at least this far apart


def color_instances(instance_ids: Tensor, *, reach: int) -> Tensor:
    """A coloring in which instances that could be confused differ, with few colors (greedy, those with most
    neighbors first).

    Two instances could be confused where a cell of one is within ``reach`` rows and columns of a cell of the
    other. An instance in several parts (4 neighbors) could be confused with all others: only a label of its
    own holds its parts together.

    Args:
        instance_ids: int64 (h, w); ids below 1 are nobody's. Ids may be missing.
        reach: in cells, >= 1; as large as the map, every instance gets a color of its own.

    Returns:
        int64 (n,), n the largest id: the colors of instances 1..n, from 0; -1 for an id without a cell.
    """
    ids = instance_ids.cpu().numpy()
    count = max(int(ids.max(initial=0)), 0)
    present = [k for k in range(1, count + 1) if (ids == k).any()]
    neighbors = {k: set() for k in present}
    reach = min(reach, max(ids.shape))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    for k in present:
        mask = (ids == k).astype(np.uint8)
        in_parts = cv2.connectedComponents(mask, connectivity=4)[0] > 2
        near = present if in_parts else np.unique(ids[cv2.dilate(mask, kernel) > 0]).tolist()
        for other in near:
            if other > 0 and other != k:
                neighbors[k].add(other)
                neighbors[other].add(k)
    colors = {}
    for k in sorted(present, key=lambda k: -len(neighbors[k])):
        taken = {colors[other] for other in neighbors[k] if other in colors}
        colors[k] = next(color for color in range(len(present)) if color not in taken)
    return torch.tensor([colors.get(k, -1) for k in range(1, count + 1)], dtype=torch.int64)


def oracle_label_map(instance_ids: Tensor, *, reach: int = 3) -> Tensor:
    """float32 (h, w): 0 on background and ignored cells, 2, 3, 4, ... on instances by `color_instances`."""
    colors = color_instances(instance_ids, reach=reach)
    labels = torch.cat([torch.zeros(1), LOWEST_LABEL + LABEL_STEP * colors.float()])
    return labels.to(instance_ids.device)[instance_ids.clamp(min=0)]


def pad_to_stride(instance_ids: Tensor, stride: int) -> Tensor:
    """int64 (H, W) with ignored rows and columns (-1) added below and at the right, up to multiples of ``stride``."""
    height, width = instance_ids.shape
    return F.pad(instance_ids, (0, -width % stride, 0, -height % stride), value=-1)


def area_coverage(instance_ids: Tensor, num_instances: int, stride: int) -> Tensor:
    """float32 (n, h, w) in [0, 1]: the share of every cell that instances 1..n cover.

    The best that a soft mask on the grid can know; a label map knows only whose cell it is.

    Args:
        instance_ids: int64 (H, W), in pixels, both divisible by ``stride``.
    """
    height, width = instance_ids.shape
    coverage = torch.empty(num_instances, height // stride, width // stride, device=instance_ids.device)
    for k, row in enumerate(coverage, start=1):
        row.copy_(F.avg_pool2d((instance_ids == k)[None].float(), stride)[0])
    return coverage


def certain_score(masks: Tensor) -> Tensor:
    """float32 (n,): the score that `group_label_map` gives each mask, bool (n, h, w), if contrast and stability are
    perfect; 0 for an empty one."""
    interior = 1 - F.max_pool2d((~masks)[:, None].float(), 3, stride=1, padding=1)[:, 0]
    area = masks.flatten(1).sum(1)
    return torch.where(area > 0, (1 + interior.flatten(1).sum(1) / area.clamp(min=1)) / 2, 0.0)
