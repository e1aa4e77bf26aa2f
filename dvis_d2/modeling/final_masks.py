"""Full-resolution masks of detections: from the label map, from the mask head, or from both."""

from detectron2.layers import paste_masks_in_image
from torch import Tensor

from .masks import upsample_soft_masks

SOURCES = ("label_map", "head", "fused")


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
    """
    Args:
        soft_masks: float (K, h, w) in [0, 1], soft memberships on the label map's grid.
        mask_probs: float (K, M, M) in [0, 1], the mask head's output inside the boxes.
        boxes: float (K, 4), x0, y0, x1, y1 in pixels of the network's input.
        source: "label_map", "head", or "fused", the mean of the two.
        stride: of the label map, in pixels of the network's input.
        image_size: (H, W) of the network's input, without padding.
        output_size: (Ho, Wo).

    Returns:
        bool (K, Ho, Wo).

    Raises:
        ValueError: for an unknown source.
    """
    if source not in SOURCES:
        raise ValueError(f"MODEL.DVIS_ROI_HEADS.MASK_SOURCE is {source!r}; it must be one of {SOURCES}")
    if source == "label_map":
        return upsample_soft_masks(soft_masks, stride=stride, image_size=image_size, output_size=output_size)
    scale = boxes.new_tensor([output_size[1] / image_size[1], output_size[0] / image_size[0]]).repeat(2)
    head = paste_masks_in_image(mask_probs, boxes * scale, output_size, threshold=0.5)
    return head.bool()
