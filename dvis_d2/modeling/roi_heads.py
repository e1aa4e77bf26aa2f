import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ROIAlign, ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY, ROIHeads, build_box_head, build_mask_head
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from ..data.cropped_masks import CroppedMasks
from .detections import FOR_AP, LIKELY, NMS_KINDS, detect, weighted_by_masks
from .mask_pasting import MASK_SOURCES, final_masks
from .masks import mask_iou
from .options import check_range
from .proposal_generator import CAPPED

MAX_WHOLE_MASKS = 1 << 28  # pixels of an image's detections together, a byte each


@ROI_HEADS_REGISTRY.register()
class DVISROIHeads(ROIHeads):
    """Verifies the few proposals: class, IoU and a refined mask each (section 4; docs/guide/heads.md).

    Every head sees ROIAlign features and, as one more channel, the proposal's soft membership
    clamp(1 - |f - value|, 0), so that it knows which of the objects in the box is meant.

    R: proposals of a batch, K: of an image, C: classes, S: side of the pooled features, M: of the head's mask.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        box_pooler: ROIPooler,
        box_head: FastRCNNConvFCHead,
        mask_pooler: ROIPooler,
        mask_head: MaskRCNNConvUpsampleHead,
        map_stride: int,
        alpha: float,
        mask_loss_weight: float,
        mask_source: str,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        class_agnostic: bool = False,
        nms: str = "hard",
        **kwargs,
    ):
        """From features of one level and C' channels ``box_head`` makes (R, C' + 1, S, S) -> (R, D), the trunk of the
        class and the IoU, and ``mask_head`` class-agnostic mask logits (R, 1, M, M). ``map_stride`` is that of the
        label map, in image pixels. ``class_agnostic``: objects are one class, 0: no class layer, the score is the
        predicted IoU (supplement 5). See also :func:`detect`, :func:`final_masks`, :meth:`verify`, :class:`ROIHeads`.
        """
        super().__init__(**(kwargs | {"num_classes": 1} if class_agnostic else kwargs))
        self.in_features, self.map_stride = in_features, map_stride
        self.box_pooler, self.box_head = box_pooler, box_head
        self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.mask_loss_weight, self.class_agnostic = mask_loss_weight, class_agnostic
        self.alpha, self.score_threshold, self.max_detections = alpha, score_threshold, max_detections
        self.nms, self.nms_threshold = nms, nms_threshold
        self.mask_source = mask_source
        check_range(0, 1, alpha=alpha, score_threshold=score_threshold, nms_threshold=nms_threshold)
        check_range(mask_loss_weight=mask_loss_weight, max_detections=max_detections)

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
            have = sorted(input_shape)
            raise ValueError(f"MODEL.ROI_HEADS.IN_FEATURES is {in_features}; it must name one feature of {have}")
        feature = input_shape[in_features[0]]
        for name, build_head in (("box", build_box_head), ("mask", build_mask_head)):
            head = cfg.MODEL[f"ROI_{name.upper()}_HEAD"]
            size, sampling = head.POOLER_RESOLUTION, head.POOLER_SAMPLING_RATIO
            ret[f"{name}_pooler"] = ROIPooler(size, (1 / feature.stride,), sampling, head.POOLER_TYPE)
            # one more channel than the feature has: the soft membership
            ret[f"{name}_head"] = build_head(cfg, ShapeSpec(channels=feature.channels + 1, height=size, width=size))
        heads = cfg.MODEL.DVIS_ROI_HEADS
        for key, allowed in (("MASK_SOURCE", MASK_SOURCES), ("NMS", NMS_KINDS)):
            if heads[key] not in allowed:
                raise ValueError(f"MODEL.DVIS_ROI_HEADS.{key} is {heads[key]!r}; it must be one of {allowed}")
        own = {key.lower(): value for key, value in heads.items() if key not in ("START", "PERTURBED_GT")}
        return {
            **ret,
            **own,
            "in_features": in_features,
            "map_stride": cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE,
            "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_threshold": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """In training the sampled proposals and the losses; otherwise the detections of every image on the network's
        input, for :meth:`postprocess`, and no losses. The images are not read. Proposals are :class:`MeanShiftProposer`
        's, targets have ``gt_classes``, ``gt_masks`` (BitMasks) and ``gt_map_masks`` bool (n, h, w)."""
        pooled_features = [features[f].float() for f in self.in_features]
        if self.training:
            assert targets is not None
            proposals = self.label_and_sample_proposals(proposals, targets)
            return proposals, self.losses(pooled_features, proposals, targets)
        return self.predict(pooled_features, proposals), {}

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals to ground truth by mask IoU on the map's grid and sample some of them.

        Adds ``gt_classes`` (``num_classes`` = background), ``gt_iou`` (K,) the proposal's best IoU, and ``gt_index``
        (K,) the row of the instance it belongs to.
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
        gt_classes = cat([props.gt_classes for props in sampled])
        num_fg = int((gt_classes < self.num_classes).sum()) / len(sampled)
        get_event_storage().put_scalar("roi_head/num_fg_samples", num_fg)
        get_event_storage().put_scalar("roi_head/num_bg_samples", len(gt_classes) / len(sampled) - num_fg)
        return sampled

    def losses(self, features: list[Tensor], proposals: list[Instances], targets: list[Instances]) -> dict[str, Tensor]:
        """``loss_iou``, ``loss_mask``, with classes ``loss_cls``; zero with a gradient path if nothing was sampled."""
        cls_logits, iou = self._class_and_iou(features, proposals)
        gt_classes, gt_iou = cat([p.gt_classes for p in proposals]), cat([p.gt_iou for p in proposals])
        num_sampled = max(len(gt_classes), 1)
        # by indices: each field's look-up by a mask would wait for the device
        foreground = [p[(p.gt_classes < self.num_classes).nonzero()[:, 0]] for p in proposals]
        mask_logits = self._mask_logits(features, foreground)
        pairs, size = zip(foreground, targets, strict=True), mask_logits.shape[-1]
        gt_masks = cat([t.gt_masks[p.gt_index].crop_and_resize(p.roi_boxes.tensor, size) for p, t in pairs])
        loss_mask = F.binary_cross_entropy_with_logits(mask_logits, gt_masks.to(mask_logits.dtype), reduction="sum")
        losses = {
            "loss_iou": F.huber_loss(iou, gt_iou, reduction="sum", delta=0.1) / (0.1 * num_sampled),
            "loss_mask": loss_mask * (self.mask_loss_weight / max(mask_logits.numel(), 1)),
        }
        if cls_logits is not None:
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
        for props in self.verify(features, proposals):
            rows, classes, scores = self.detect(props)
            if len(rows) == self.max_detections and (self.score_threshold > FOR_AP or (scores >= LIKELY).all()):
                log_first_n(logging.WARNING, CAPPED.format("TEST.DETECTIONS_PER_IMAGE", len(rows)), key="caller")
            rows, mask_of = rows.unique(return_inverse=True)  # detections of one proposal, by class, share its mask
            drawn.append(props[rows])
            detections.append((mask_of, classes, scores))
        each = zip(drawn, self.mask_probs(features, drawn), detections, strict=True)
        results = []
        for props, probs, found in each:
            mask_of, classes, scores = self._weighted(*found, probs)
            results.append(
                Instances(
                    props.image_size,
                    pred_boxes=props.roi_boxes[mask_of],
                    scores=scores,
                    pred_classes=classes,
                    soft_masks=props.soft_masks[mask_of],
                    mask_probs=probs[mask_of],
                )
            )
        return results

    def detect(self, props: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """:func:`detect` of one image's verified proposals, with the thresholds of these heads; of proposals that have
        ``mask_probs`` the scores are the final ones, :func:`weighted_by_masks`."""
        names = ("alpha", "score_threshold", "nms_threshold", "max_detections", "nms")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = detect(props.proposal_masks, props.ious, props.class_probs, **options)
        return self._weighted(*found, props.mask_probs) if props.has("mask_probs") else found

    def _weighted(self, rows: Tensor, classes: Tensor, scores: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.mask_source == "label_map":  # the paper's masks, and its score
            return rows, classes, scores
        order, scores = weighted_by_masks(scores, probs[rows], self.score_threshold)
        return rows[order], classes[order], scores

    @torch.no_grad()
    def verify(self, features: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        """The proposals with predicted ``ious`` (K,) and ``class_probs`` (K, C) in [0, 1]; C = 1, the IoU, for
        class-agnostic heads."""
        cls_logits, ious = self._class_and_iou(features, proposals)
        probs = ious[:, None] if cls_logits is None else cls_logits.softmax(dim=1)[:, :-1]
        counts = [len(props) for props in proposals]
        return [
            Instances(props.image_size, **props.get_fields(), ious=own_ious, class_probs=own_probs)
            for props, own_ious, own_probs in zip(proposals, ious.split(counts), probs.split(counts), strict=True)
        ]

    def mask_probs(self, features: list[Tensor], proposals: list[Instances]) -> tuple[Tensor, ...]:
        """float32 (K, M, M) in [0, 1] of every image: the mask head's output inside the ``roi_boxes``."""
        return self._mask_logits(features, proposals).sigmoid().split([len(props) for props in proposals])

    def postprocess(self, result: Instances, height: int, width: int, *, cropped: bool = False) -> Instances:
        """Detections of one image at the output's size, with ``pred_masks`` bool (K, height, width), or
        :class:`CroppedMasks` where that is more than `MAX_WHOLE_MASKS`, or if these are wanted, and tight
        ``pred_boxes``; a detection whose mask is empty is dropped."""
        masks = self.draw_masks(result, (height, width))
        found = np.flatnonzero(masks.boxes[:, 2])
        result, drawn = result[torch.from_numpy(found).to(result.scores.device)], masks[found]
        whole = not cropped and len(found) * height * width <= MAX_WHOLE_MASKS
        return Instances(
            (height, width),
            pred_boxes=Boxes(result.scores.new_tensor(drawn.boxes)),
            scores=result.scores,
            pred_classes=result.pred_classes,
            pred_masks=torch.from_numpy(drawn.numpy()).to(result.scores.device) if whole else drawn,
        )

    def draw_masks(self, result: Instances, size: tuple[int, int], rows: Any = slice(None)) -> CroppedMasks:
        """:func:`final_masks` of one image's detections, or of some of them."""
        soft = result.soft_masks[rows] if self.mask_source == "label_map" else result.soft_masks[:0]  # whole maps
        drawn = soft, result.mask_probs[rows], result.pred_boxes.tensor[rows]
        sizes = {"image_size": result.image_size, "output_size": size}
        return final_masks(*drawn, source=self.mask_source, stride=self.map_stride, **sizes)

    def _class_and_iou(self, features: list[Tensor], proposals: list[Instances]) -> tuple[Tensor | None, Tensor]:
        """Class logits (R, C + 1), None without classes, and IoU (R,) in [0, 1] of the batch's proposals, float32."""
        x = self.box_head(self._pool(self.box_pooler, features, proposals))
        cls_logits = None if self.cls_score is None else self.cls_score(x).float()
        return cls_logits, self.iou_pred(x).float()[:, 0].sigmoid()

    def _mask_logits(self, features: list[Tensor], proposals: list[Instances]) -> Tensor:
        """float32 (R, M, M) of the batch's proposals, inside their ``roi_boxes``."""
        return self.mask_head.layers(self._pool(self.mask_pooler, features, proposals)).float()[:, 0]

    def _pool(self, pooler: ROIPooler, features: list[Tensor], proposals: list[Instances]) -> Tensor:
        """float (R, C' + 1, S, S): features and, as the last channel, soft membership inside the ``roi_boxes``."""
        boxes = [props.roi_boxes for props in proposals]
        align = ROIAlign(pooler.output_size, 1 / self.map_stride, sampling_ratio=0, aligned=True)
        # every proposal has a map of its own, so the batch index of its box is its own number
        soft = cat([props.soft_masks for props in proposals])[:, None]
        index = torch.arange(len(soft), device=soft.device, dtype=soft.dtype)
        membership = align(soft, torch.cat([index[:, None], Boxes.cat(boxes).tensor], dim=1))
        pooled = torch.cat([pooler(features, boxes), membership], dim=1)
        return pooled.contiguous(memory_format=torch.channels_last)  # a CPU is up to twice as fast on it
