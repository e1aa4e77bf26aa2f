"""From the mask head's output inside boxes to masks of the whole image: final masks, and refined proposals.

Shapes: K masks, M x M the mask head's output, (h, w) the label map's grid, (H, W) the network's input without padding.
"""

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from torch import Tensor

from .masks import upsample_soft_masks
from .proposal_generator import make_proposals

MASK_SOURCES = ("head", "label_map")


def final_masks(
    soft_masks: Tensor,
    mask_probs: Tensor,
    boxes: Tensor,
    *,
    source: str,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """bool (K, Ho, Wo): detections' masks at the output's size, to which the image is scaled. `source` "head" draws the
    head's masks, float (K, M, M) in [0, 1], inside the boxes, float (K, 4), x0, y0, x1, y1 in pixels of the network's
    input; "label_map" the upsampled soft memberships (section 4), float (K, h, w) in [0, 1]."""
    if source == "label_map":
        return upsample_soft_masks(soft_masks, stride=stride, image_size=image_size, output_size=output_size)
    return _paste(mask_probs, boxes, image_size, output_size)


def refined_proposals(proposals: Instances, mask_probs: Tensor, *, stride: int) -> Instances:
    """The mask head's masks of one image's proposals, with their fields; empty ones are left out. Its masks are better
    than the label map's, so their IoU, class and mask are easier to tell. ``mask_probs`` float (K, M, M) in [0, 1] lie
    inside their ``roi_boxes``; ``stride`` is the label map's, in pixels."""
    height, width = proposals.proposal_masks.shape[1:]
    masks = _paste(mask_probs, proposals.roi_boxes.tensor, (height * stride, width * stride), (height, width))
    found = masks.flatten(1).any(dim=1)
    masks, scores = masks[found], proposals.objectness_logits[found]
    return make_proposals(masks, masks.float(), scores, image_size=proposals.image_size, stride=stride)


def _paste(mask_probs: Tensor, boxes: Tensor, image_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    """bool (K, Ho, Wo): masks inside boxes of an image of one size, drawn at another."""
    scale_y, scale_x = output_size[0] / image_size[0], output_size[1] / image_size[1]
    boxes = boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    return paste_masks_in_image(mask_probs, boxes, output_size, threshold=0.5).bool()
