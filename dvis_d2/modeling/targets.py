"""Ground truth on the label map's grid.

Shapes: N images, n instances, H x W image pixels, h x w map cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def downsample_instance_ids(instance_ids: Tensor, stride: int) -> Tensor:
    """The id that covers most of every map cell.

    Nearest-pixel sampling would shift every object by half a pixel; the (lower) median of a cell's
    stride x stride ids is its majority wherever one id has one, and one of its ids in any case.

    Args:
        instance_ids: int64 (N, H, W), H and W divisible by ``stride``.

    Returns:
        int64 (N, H / stride, W / stride).
    """
    if stride == 1:
        return instance_ids
    n, height, width = instance_ids.shape
    cells = instance_ids.view(n, height // stride, stride, width // stride, stride)
    return cells.permute(0, 1, 3, 2, 4).flatten(3).median(dim=3).values


def instance_masks(instance_ids: Tensor, num_instances: int) -> Tensor:
    """bool (n, h, w): the masks of instances 1..n of one image's ids (h, w)."""
    ids = torch.arange(1, num_instances + 1, device=instance_ids.device)
    return instance_ids[None] == ids[:, None, None]


def perturb_masks(masks: Tensor, instance_ids: Tensor) -> Tensor:
    """One random imitation of a bad proposal for every mask: as it is, shrunk, grown, shifted, merged
    with another object, or cut along a line. The heads so see every IoU from the first step on.

    Args:
        masks: bool (n, h, w).
        instance_ids: int64 (h, w); ignored cells (-1) never enter a mask.

    Returns:
        bool (n, h, w), drawn from the global random generator; some may be empty.
    """
    n, h, w = masks.shape
    device = masks.device
    if n == 0:
        return masks
    floats = masks[:, None].float()
    shrunk = -F.max_pool2d(-floats, 3, stride=1, padding=1)[:, 0] > 0.5
    grown = F.max_pool2d(floats, 3, stride=1, padding=1)[:, 0] > 0.5
    # a shift of up to half the object's size, the same rule for small and large ones
    reach = (masks.sum(dim=(1, 2)).clamp(min=1).sqrt() / 2).ceil()
    dy, dx = (torch.empty(2, n, device=device).uniform_(-1, 1) * reach).round().long()
    ys = (torch.arange(h, device=device)[None] - dy[:, None]).clamp(-1, h)
    xs = (torch.arange(w, device=device)[None] - dx[:, None]).clamp(-1, w)
    padded = F.pad(masks, (1, 1, 1, 1))  # what comes from outside is empty
    rows = torch.arange(n, device=device)
    shifted = padded[rows[:, None, None], (ys + 1)[:, :, None], (xs + 1)[:, None, :]]
    merged = masks | masks[torch.randint(n, (n,), device=device)]
    cut = masks & _half_planes(masks)
    variants = torch.stack([masks, shrunk, grown, shifted, merged, cut])
    chosen = torch.randint(len(variants), (n,), device=device)
    return variants[chosen, rows] & (instance_ids >= 0)


def _half_planes(masks: Tensor) -> Tensor:
    """bool (n, h, w): one side of a random line through every mask's centroid."""
    n, h, w = masks.shape
    weights = masks.float()
    area = weights.sum(dim=(1, 2)).clamp(min=1)
    ys = torch.arange(h, device=masks.device, dtype=torch.float32)
    xs = torch.arange(w, device=masks.device, dtype=torch.float32)
    cy = (weights.sum(dim=2) @ ys / area)[:, None]
    cx = (weights.sum(dim=1) @ xs / area)[:, None]
    angle = torch.rand(n, 1, device=masks.device) * (2 * torch.pi)
    side_y, side_x = (ys - cy) * angle.sin(), (xs - cx) * angle.cos()
    return side_y[:, :, None] + side_x[:, None, :] > 0
