"""Tiny verification heads, whose layers can be made to say anything, and what they are shown."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Instances

from dvis_d2.modeling import DVISROIHeads, proposal_generator

STRIDE = 2
NUM_CLASSES = 3


def build(**kwargs):
    shape = ShapeSpec(channels=4 + 1, height=4, width=4)
    args = dict(
        num_classes=NUM_CLASSES,
        batch_size_per_image=8,
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.1, 0.2], [0, -1, 1]),
        in_features=["p2"],
        box_pooler=ROIPooler(4, (0.25,), 0, "ROIAlignV2"),
        box_head=FastRCNNConvFCHead(shape, conv_dims=[8], fc_dims=[8]),
        mask_pooler=ROIPooler(4, (0.25,), 0, "ROIAlignV2"),
        mask_head=MaskRCNNConvUpsampleHead(shape, num_classes=1, conv_dims=[8]),
        map_stride=STRIDE,
        alpha=0.5,
        mask_loss_weight=1.0,
        mask_source="head",
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
    )
    return DVISROIHeads(**(args | kwargs))


def make_proposals(*windows, size=32):
    """One proposal for every (y0, y1, x0, x1) of map cells; the label map is 1 inside."""
    masks = torch.zeros(len(windows), size // STRIDE, size // STRIDE, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, windows, strict=True):
        mask[y0:y1, x0:x1] = True
    return proposal_generator.make_proposals(
        masks, masks.float(), torch.ones(len(windows)), image_size=(size, size), stride=STRIDE
    )


def make_targets(*windows, classes, size=32):
    proposals = make_proposals(*windows, size=size)
    masks = proposals.proposal_masks.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    return Instances(
        (size, size),
        gt_boxes=proposals.proposal_boxes,
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(masks),
        gt_map_masks=proposals.proposal_masks,
    )


def features(num_images=1, size=32):
    torch.manual_seed(0)
    return {"p2": torch.randn(num_images, 4, size // 4, size // 4)}


OBJECT = (2, 8, 2, 8)


class Says(torch.nn.Module):
    """Gives one answer after the other, cut to the number of proposals, and notes these numbers."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = [torch.as_tensor(answer, dtype=torch.float32) for answer in answers]
        self.heard = []

    def forward(self, x):
        self.heard.append(len(x))
        return self.answers[min(len(self.heard), len(self.answers)) - 1][: len(x)]


class MaskHead(torch.nn.Module):
    """A mask head whose logits a :class:`Says` gives."""

    def __init__(self, *answers):
        super().__init__()
        self.layers = Says(*answers)


def say(heads, ious, logits=None, masks=None):
    """Let the class layer, the IoU layer and the mask head say what is given, each a list of answers."""
    if logits is not None:
        heads.cls_score = Says(*logits)
    heads.iou_pred = Says(*(torch.logit(torch.as_tensor(iou))[:, None] for iou in ious))
    if masks is not None:
        heads.mask_head = MaskHead(*(mask[:, None] for mask in masks))
    return heads
