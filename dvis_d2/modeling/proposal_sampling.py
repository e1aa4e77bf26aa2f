"""What the verification heads learn from: the network's proposals, and ground truth altered to look like bad ones.

Shapes: n instances, K proposals of one image, (h, w) the label map's grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .grouping import Grouping, soft_membership


def training_proposals(
    own: Grouping, label_map: Tensor, instance_ids: Tensor, gt_masks: Tensor, num_perturbed: int
) -> tuple[Tensor, Tensor]:
    """The network's own proposals and perturbed ground truth of one image; none on ignored pixels, which are neither
    objects nor background.

    Args:
        own: of the label map.
        label_map: float (h, w), after the ReLU.
        instance_ids: int64 (h, w), 0 background, k >= 1 instance, -1 ignored.
        gt_masks: bool (n, h, w), of the instances.
        num_perturbed: copies of every ground-truth mask.

    Returns:
        masks bool and soft masks float, (K, h, w) each.
    """
    kept = (own.masks & (instance_ids < 0)).sum(dim=(1, 2)) <= 0.5 * own.masks.sum(dim=(1, 2))
    perturbed = perturb_masks(gt_masks.repeat(num_perturbed, 1, 1), instance_ids)
    perturbed = perturbed[perturbed.flatten(1).any(dim=1)]
    weights = perturbed.flatten(1).to(label_map.dtype)
    values = weights @ label_map.flatten() / weights.sum(dim=1)
    soft = soft_membership(label_map, perturbed, values)
    return torch.cat([own.masks[kept], perturbed]), torch.cat([own.soft[kept], soft])


def perturb_masks(masks: Tensor, instance_ids: Tensor) -> Tensor:
    """One random imitation of a bad proposal for every mask: as it is, shrunk, grown, shifted, merged with another
    object, or cut along a line. The heads so see every IoU from the first step on.

    From masks bool (n, h, w) and ids int64 (h, w), whose ignored cells (-1) never enter a mask: bool (n, h, w), drawn
    from the global random generator; some may be empty.
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
