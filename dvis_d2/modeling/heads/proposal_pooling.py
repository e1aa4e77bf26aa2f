"""What the verification heads see of a proposal. R proposals of a batch, K of an image."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign, ShapeSpec, cat
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


def build_pooled_head(
    cfg: CfgNode, head_cfg: CfgNode, build_head: Callable[[CfgNode, ShapeSpec], nn.Module], feature: ShapeSpec
) -> tuple[ROIPooler, nn.Module]:
    """A pooler of one feature level and the head behind it, which takes one more channel than the feature has.

    Args:
        head_cfg: the node of `cfg` with the pooler's keys. build_head: one of Detectron2's builders.
    """
    resolution = head_cfg.POOLER_RESOLUTION
    pooler = ROIPooler(
        output_size=resolution,
        scales=(1 / feature.stride,),
        sampling_ratio=head_cfg.POOLER_SAMPLING_RATIO,
        pooler_type=head_cfg.POOLER_TYPE,
    )
    return pooler, build_head(cfg, ShapeSpec(channels=feature.channels + 1, height=resolution, width=resolution))


def grow_boxes(proposals: Instances, margin: float) -> Tensor:
    """float (K, 4), x0, y0, x1, y1 in pixels: the proposals' boxes, grown by a share of their size around their
    centres and clipped to the image."""
    x0, y0, x1, y1 = proposals.proposal_boxes.tensor.unbind(dim=1)
    dx, dy = (x1 - x0) * (margin / 2), (y1 - y0) * (margin / 2)
    boxes = Boxes(torch.stack([x0 - dx, y0 - dy, x1 + dx, y1 + dy], dim=1))
    boxes.clip(proposals.image_size)
    return boxes.tensor


def pool_with_membership(
    pooler: ROIPooler, features: list[Tensor], boxes: list[Tensor], soft_masks: list[Tensor], *, map_stride: int
) -> Tensor:
    """float (R, C + 1, S, S): features and, as the last channel, soft membership inside the boxes.

    Args:
        pooler: of the features, to S x S.
        features: of the batch, (N, C, h', w').
        boxes: float (K, 4) of every image, in pixels.
        soft_masks: float (K, h, w) of every image, in [0, 1], on the label map's grid.
        map_stride: of that grid, in pixels.
    """
    pooled = pooler(features, [Boxes(b) for b in boxes])
    align = ROIAlign(pooler.output_size, 1 / map_stride, sampling_ratio=0, aligned=True)
    # every proposal has a map of its own, so the batch index of its box is its own number
    soft = cat(soft_masks)[:, None]
    index = torch.arange(len(soft), device=soft.device, dtype=soft.dtype)
    membership = align(soft, torch.cat([index[:, None], cat(boxes)], dim=1))
    return torch.cat([pooled, membership], dim=1)
