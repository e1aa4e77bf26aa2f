"""Ground truth on the label map's grid (h, w) of N images (H, W) with n instances each."""

import torch
from torch import Tensor


def downsample_instance_ids(instance_ids: Tensor, stride: int) -> Tensor:
    """The id that covers most of every map cell.

    Nearest-pixel sampling would shift every object by half a pixel; the (lower) median of a cell's stride x stride ids
    is its majority wherever one id has one, and one of its ids in any case. int64 (N, H, W), H and W divisible by
    ``stride`` -> int64 (N, H / stride, W / stride).
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
