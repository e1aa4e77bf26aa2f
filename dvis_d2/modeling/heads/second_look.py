"""The mask head's masks as proposals."""

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..proposal_generator import make_proposals
from .final_masks import final_masks

Verdict = tuple[Tensor, Tensor | None]  # of one image's proposals, IoU (K,) and class probabilities (K, C)
MIN_OBJECTNESS = 0.1  # a proposal below is not mended: that costs time and gains nothing (docs/heads.md)


def look_again(
    heads, features: list[Tensor], proposals: list[Instances], verdicts: list[Verdict]
) -> tuple[list[Instances], list[Verdict]]:
    """The proposals, after them those mended that may be objects, and the verdicts of all.

    Args:
        heads: the :class:`DVISROIHeads` that gave the verdicts.
        features, proposals, verdicts: of a batch, as there.
    """
    likely = [props[worth_mending(*verdict)] for props, verdict in zip(proposals, verdicts, strict=True)]
    mask_probs = heads.mask_logits(features, likely).sigmoid().split([len(props) for props in likely])
    mended = [
        mend(props, probs, heads.grown_boxes(props), stride=heads.map_stride)
        for props, probs in zip(likely, mask_probs, strict=True)
    ]
    both = [Instances.cat(pair) for pair in zip(proposals, mended, strict=True)]
    return both, [
        (torch.cat([ious, new_ious]), None if probs is None else torch.cat([probs, new_probs]))
        for (ious, probs), (new_ious, new_probs) in zip(verdicts, heads.verify(features, mended), strict=True)
    ]


def worth_mending(ious: Tensor, class_probs: Tensor | None) -> Tensor:
    """bool (K,): which proposals are not plainly background, by the probability of all classes together; of heads
    without classes by the IoU.

    Args:
        ious: float (K,) in [0, 1], predicted. class_probs: float (K, C) in [0, 1], or None.
    """
    return (ious if class_probs is None else class_probs.sum(dim=1)) >= MIN_OBJECTNESS


@torch.no_grad()
def mend(proposals: Instances, mask_probs: Tensor, boxes: Tensor, *, stride: int) -> Instances:
    """The mask head's masks of one image's proposals as proposals, without those that are empty.

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
    return make_proposals(masks, masks.float(), scores, image_size=proposals.image_size, stride=stride)
