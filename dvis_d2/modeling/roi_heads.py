import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY, ROIHeads, build_box_head, build_mask_head
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .heads.detections import NMS_KINDS, SCORE_FUSIONS, detect
from .heads.final_masks import SOURCES, final_masks
from .heads.mask_targets import mask_targets, refined_iou
from .heads.proposal_pooling import build_pooled_head, grow_boxes, pool_with_membership
from .heads.second_look import Verdict, look_again
from .masks import mask_iou

IOU_TARGETS = ("proposal", "refined")


@ROI_HEADS_REGISTRY.register()
class DVISROIHeads(ROIHeads):
    """Verifies the few proposals: class, IoU and a refined mask each (section 4; docs/heads.md).

    Every head sees ROIAlign features and, as one more channel, the proposal's soft membership
    clamp(1 - |f - value|, 0), so that it knows which of the objects in the box is meant.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        mask_pooler: ROIPooler,
        mask_head: nn.Module,
        map_stride: int,
        box_margin: float,
        alpha: float,
        iou_loss_weight: float,
        mask_loss_weight: float,
        mask_source: str,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        class_agnostic: bool = False,
        score_fusion: str = "sum",
        nms: str = "hard",
        class_agnostic_nms: bool = False,
        iou_target: str = "proposal",
        second_look: bool = False,
        **kwargs,
    ):
        """
        Args:
            in_features: features to pool, one level.
            box_pooler, mask_pooler: ROIAlign to the resolutions of the two heads.
            box_head: trunk of the class and the IoU, (R, C + 1, S, S) -> (R, D).
            mask_head: with ``layers``: (R, C + 1, S, S) -> class-agnostic mask logits (R, 1, 2S, 2S).
            map_stride: stride of the label map, in image pixels.
            box_margin: share of its size by which a proposal's box grows before pooling.
            alpha: weight of the predicted IoU in the score; the class probability gets the rest.
            iou_loss_weight, mask_loss_weight: weights of ``loss_iou`` and ``loss_mask``.
            mask_source: "label_map", "head" or "fused", see :func:`final_masks`.
            score_threshold: detections below this score are dropped.
            max_detections: detections kept an image.
            class_agnostic: objects are one class, 0: no class layer, the score is the predicted IoU (supplement 5).
            score_fusion, nms, nms_threshold, class_agnostic_nms: see :func:`detect`.
            second_look: see :meth:`candidates`.
            iou_target: what the IoU head learns for foreground: "proposal", the raw proposal's IoU (authors), or
                "refined", that of the mask head's own mask. Background keeps the proposal's IoU.
            kwargs: sampling and matching, see :class:`detectron2.modeling.ROIHeads`.
        """
        super().__init__(**(kwargs | {"num_classes": 1} if class_agnostic else kwargs))
        self.in_features = in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.map_stride = map_stride
        self.box_margin = box_margin
        self.alpha = alpha
        self.iou_loss_weight = iou_loss_weight
        self.mask_loss_weight = mask_loss_weight
        self.mask_source = mask_source
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.class_agnostic = class_agnostic
        self.score_fusion = score_fusion
        self.nms = nms
        self.class_agnostic_nms = class_agnostic_nms
        self.iou_target = iou_target
        self.second_look = second_look

        channels = box_head.output_shape.channels
        self.cls_score = None if class_agnostic else nn.Linear(channels, self.num_classes + 1)
        self.iou_pred = nn.Linear(channels, 1)
        for layer in filter(None, (self.cls_score, self.iou_pred)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        ret = super().from_config(cfg)
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if len(in_features) != 1 or in_features[0] not in input_shape:
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {in_features}; it must name one feature of {sorted(input_shape)}"
            )
        feature = input_shape[in_features[0]]
        box_pooler, box_head = build_pooled_head(cfg, cfg.MODEL.ROI_BOX_HEAD, build_box_head, feature)
        mask_pooler, mask_head = build_pooled_head(cfg, cfg.MODEL.ROI_MASK_HEAD, build_mask_head, feature)
        heads = cfg.MODEL.DVIS_ROI_HEADS
        choices = {"IOU_TARGET": IOU_TARGETS, "MASK_SOURCE": SOURCES, "NMS": NMS_KINDS, "SCORE_FUSION": SCORE_FUSIONS}
        for key, allowed in choices.items():
            if heads[key] not in allowed:
                raise ValueError(f"MODEL.DVIS_ROI_HEADS.{key} is {heads[key]!r}; it must be one of {allowed}")
        return ret | {
            "in_features": in_features,
            "box_pooler": box_pooler,
            "box_head": box_head,
            "mask_pooler": mask_pooler,
            "mask_head": mask_head,
            "map_stride": cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE,
            "box_margin": heads.BOX_MARGIN,
            "alpha": heads.ALPHA,
            "iou_loss_weight": heads.IOU_LOSS_WEIGHT,
            "mask_loss_weight": heads.MASK_LOSS_WEIGHT,
            "mask_source": heads.MASK_SOURCE,
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_threshold": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "class_agnostic": heads.CLASS_AGNOSTIC,
            "score_fusion": heads.SCORE_FUSION,
            "nms": heads.NMS,
            "class_agnostic_nms": heads.CLASS_AGNOSTIC_NMS,
            "iou_target": heads.IOU_TARGET,
            "second_look": heads.SECOND_LOOK,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: unused; part of Detectron2's interface.
            features: feature maps by name.
            proposals: with the fields of :class:`MeanShiftProposer`.
            targets: ground truth with ``gt_classes``, ``gt_masks`` (BitMasks) and ``gt_map_masks`` bool
                (n, h, w), in training.

        Returns:
            in training the sampled proposals and the losses; otherwise the detections of every image on
            the network's input, for :meth:`postprocess`, and no losses.
        """
        features = [features[f].float() for f in self.in_features]
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
            return proposals, self.losses(features, proposals, targets)
        return self.predict(features, proposals), {}

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals to ground truth by mask IoU on the map's grid and sample some of them.

        Adds ``gt_classes`` (``num_classes`` = background), ``gt_iou`` (K,) the proposal's best IoU, and
        ``gt_index`` (K,) the row of the instance it belongs to.
        """
        sampled = []
        for props, target in zip(proposals, targets, strict=True):
            iou = mask_iou(target.gt_map_masks, props.proposal_masks)
            matched_idxs, matched_labels = self.proposal_matcher(iou)
            gt_classes = torch.zeros_like(target.gt_classes) if self.class_agnostic else target.gt_classes
            idxs, gt_classes = self._sample_proposals(matched_idxs, matched_labels, gt_classes)
            props = props[idxs]
            props.gt_classes = gt_classes
            props.gt_index = matched_idxs[idxs]
            props.gt_iou = iou[:, idxs].amax(dim=0) if len(target) else iou.new_zeros(len(idxs))
            sampled.append(props)
        storage = get_event_storage()
        num_fg = np.mean([int((p.gt_classes < self.num_classes).sum()) for p in sampled])
        storage.put_scalar("roi_head/num_fg_samples", num_fg)
        storage.put_scalar("roi_head/num_bg_samples", np.mean([len(p) for p in sampled]) - num_fg)
        return sampled

    def losses(self, features: list[Tensor], proposals: list[Instances], targets: list[Instances]) -> dict[str, Tensor]:
        """``loss_iou``, ``loss_mask``, with classes ``loss_cls``; zero with a gradient path if nothing was sampled."""
        cls_logits, iou = self._class_and_iou(features, proposals)
        gt_classes = cat([p.gt_classes for p in proposals])
        gt_iou = cat([p.gt_iou for p in proposals])
        num_sampled = max(len(gt_classes), 1)
        foreground = [p[p.gt_classes < self.num_classes] for p in proposals]
        mask_logits = self.mask_logits(features, foreground)
        boxes = [self.grown_boxes(p) for p in foreground]
        gt_masks, gt_areas = mask_targets(foreground, boxes, targets, size=mask_logits.shape[-1])
        loss_mask = F.binary_cross_entropy_with_logits(mask_logits, gt_masks, reduction="sum")
        if self.iou_target == "refined":
            refined = refined_iou(mask_logits, gt_masks, cat(boxes), gt_areas)
            gt_iou = gt_iou.masked_scatter(gt_classes < self.num_classes, refined)
        loss_iou = F.huber_loss(iou, gt_iou, reduction="sum", delta=0.1) / (0.1 * num_sampled)
        losses = {
            "loss_iou": loss_iou * self.iou_loss_weight,
            "loss_mask": loss_mask * (self.mask_loss_weight / max(mask_logits.numel(), 1)),
        }
        if not self.class_agnostic:
            losses["loss_cls"] = F.cross_entropy(cls_logits, gt_classes, reduction="sum") / num_sampled
        return losses

    def zero_losses(self) -> dict[str, Tensor]:
        """The keys of :meth:`losses` while the heads do not train yet: logs stay aligned, and every parameter has the
        gradient that distributed training waits for."""
        zero = 0 * sum(p.sum() for p in self.parameters())
        names = ("loss_iou", "loss_mask") if self.class_agnostic else ("loss_cls", "loss_iou", "loss_mask")
        return dict.fromkeys(names, zero)

    @torch.no_grad()
    def predict(self, features: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        """Detections of every image, best first: boxes, classes, scores, and what their masks are made of."""
        detections, drawn = [], []
        for props, (ious, class_probs) in zip(*self.candidates(features, proposals), strict=True):
            rows, classes, scores = detect(
                props.proposal_masks,
                ious,
                class_probs,
                alpha=self.alpha,
                fusion=self.score_fusion,
                score_threshold=self.score_threshold,
                nms_threshold=self.nms_threshold,
                max_detections=self.max_detections,
                nms=self.nms,
                class_agnostic_nms=self.class_agnostic_nms,
            )
            rows, mask_of = rows.unique(return_inverse=True)  # detections of one proposal, by class, share its mask
            drawn.append(props[rows])
            detections.append((scores, classes, mask_of))
        mask_probs = self.mask_logits(features, drawn).sigmoid().split([len(props) for props in drawn])
        return [
            Instances(
                props.image_size,
                pred_boxes=Boxes(self.grown_boxes(props)[mask_of]),
                scores=scores,
                pred_classes=classes,
                soft_masks=props.soft_masks[mask_of],
                mask_probs=probs[mask_of],
            )
            for props, probs, (scores, classes, mask_of) in zip(drawn, mask_probs, detections, strict=True)
        ]

    def postprocess(self, result: Instances, height: int, width: int) -> Instances:
        """Detections of one image at the output's size, with ``pred_masks`` bool (K, height, width) and
        tight ``pred_boxes``; a detection whose mask is empty is dropped."""
        masks = final_masks(
            result.soft_masks,
            result.mask_probs,
            result.pred_boxes.tensor,
            source=self.mask_source,
            stride=self.map_stride,
            image_size=result.image_size,
            output_size=(height, width),
        )
        output = Instances(
            (height, width),
            pred_boxes=BitMasks(masks).get_bounding_boxes().to(masks.device),
            scores=result.scores,
            pred_classes=result.pred_classes,
            pred_masks=masks,
        )
        return output[output.pred_boxes.nonempty()]

    @torch.no_grad()
    def candidates(self, features: list[Tensor], proposals: list[Instances]) -> tuple[list[Instances], list[Verdict]]:
        """What may become a detection, and what :meth:`verify` says of it: proposals and, with ``second_look``, those
        that :func:`look_again` adds."""
        verdicts = self.verify(features, proposals)
        return look_again(self, features, proposals, verdicts) if self.second_look else (proposals, verdicts)

    def verify(self, features: list[Tensor], proposals: list[Instances]) -> list[Verdict]:
        """For every image, predicted IoU (K,) and class probabilities (K, C) in [0, 1]; class-agnostic heads give None
        for the latter."""
        cls_logits, ious = self._class_and_iou(features, proposals)
        counts = [len(p) for p in proposals]
        if cls_logits is None:
            return [(iou, None) for iou in ious.split(counts)]
        class_probs = cls_logits.softmax(dim=1)[:, :-1]
        return list(zip(ious.split(counts), class_probs.split(counts), strict=True))

    def mask_logits(self, features: list[Tensor], proposals: list[Instances]) -> Tensor:
        """float32 (R, M, M) of all proposals of the batch, inside their grown boxes."""
        return self.mask_head.layers(self._pool(self.mask_pooler, features, proposals)).float()[:, 0]

    def grown_boxes(self, proposals: Instances) -> Tensor:
        """float (K, 4): the boxes in which one image's proposals are seen, and their masks lie."""
        return grow_boxes(proposals, self.box_margin)

    def _class_and_iou(self, features: list[Tensor], proposals: list[Instances]) -> tuple[Tensor | None, Tensor]:
        """Class logits (R, C + 1), None without classes, and IoU (R,) in [0, 1] of the batch's proposals, float32."""
        x = self.box_head(self._pool(self.box_pooler, features, proposals))
        cls_logits = None if self.class_agnostic else self.cls_score(x).float()
        return cls_logits, self.iou_pred(x).float()[:, 0].sigmoid()

    def _pool(self, pooler: ROIPooler, features: list[Tensor], proposals: list[Instances]) -> Tensor:
        boxes = [self.grown_boxes(p) for p in proposals]
        soft_masks = [p.soft_masks for p in proposals]
        return pool_with_membership(pooler, features, boxes, soft_masks, map_stride=self.map_stride)
