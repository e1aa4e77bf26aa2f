"""The mask head's masks as proposals."""

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..proposal_generator import make_proposals
from .final_masks import final_masks


@torch.no_grad()
def add_mended(proposals: Instances, mask_probs: Tensor, boxes: Tensor, *, stride: int) -> Instances:
    """The proposals of one image, and after them the mask head's mask of each that has one, as one more proposal.

    The mask head mends much of what the label map got wrong, so its mask is often the better proposal: of a better box,
    and its IoU, class and mask are easier to tell.

    Args:
        proposals: K of them, with the fields of :class:`MeanShiftProposer`.
        mask_probs: float (K, M, M) in [0, 1], the mask head's output inside the boxes.
        boxes: float (K, 4), x0, y0, x1, y1 in pixels. stride: of the label map, in pixels.
    """
    grid = proposals.proposal_masks.shape[1:]
    masks = final_masks(
        proposals.soft_masks,
        mask_probs,
        boxes,
        source="head",
        stride=stride,
        image_size=tuple(side * stride for side in grid),
        output_size=tuple(grid),
    )
    found = masks.flatten(1).any(dim=1)
    masks, scores = masks[found], proposals.objectness_logits[found]
    mended = make_proposals(masks, masks.float(), scores, image_size=proposals.image_size, stride=stride)
    return Instances.cat([proposals, mended])
