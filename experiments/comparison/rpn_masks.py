"""Mask R-CNN without the decisions of its second stage: the RPN's boxes, each with a mask; they know no classes."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from torch import nn


def has_rpn_masks(cfg: CfgNode) -> bool:
    """Whether a model of this config has an RPN and a mask head that needs no class."""
    model = cfg.MODEL
    without_class = model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK or model.ROI_HEADS.NUM_CLASSES == 1
    return model.PROPOSAL_GENERATOR.NAME == "RPN" and model.MASK_ON and without_class


class RPNMasks(nn.Module):
    """The boxes of a Mask R-CNN's RPN, after its NMS, with the masks of its mask head and their objectness as score."""

    def __init__(self, model: GeneralizedRCNN, *, max_boxes: int = 100):
        """
        Args:
            model: for inference, see :func:`has_rpn_masks`.
            max_boxes: of the highest objectness, an image.
        """
        super().__init__()
        self.model = model
        self.max_boxes = max_boxes

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As :meth:`GeneralizedRCNN.inference`; `pred_classes` are 0."""
        images = self.model.preprocess_image(batched_inputs)
        features = self.model.backbone(images.tensor)
        proposals, _ = self.model.proposal_generator(images, features)
        boxes = [_as_detections(p[: self.max_boxes]) for p in proposals]  # they come best first
        found = self.model.roi_heads.forward_with_given_boxes(features, boxes)
        return GeneralizedRCNN._postprocess(found, batched_inputs, images.image_sizes)


def _as_detections(proposals: Instances) -> Instances:
    logits = proposals.objectness_logits
    return Instances(
        proposals.image_size,
        pred_boxes=proposals.proposal_boxes,
        scores=logits.sigmoid(),
        pred_classes=torch.zeros(len(logits), dtype=torch.int64, device=logits.device),
    )
