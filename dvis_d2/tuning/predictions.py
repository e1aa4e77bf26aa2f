"""What the network said about a set of images, stored so that other thresholds need no second run of it.

Three layers, each computed from the one before: features and label maps (the network, once), proposals with their
class probability and IoU (grouping and the small heads, once for each grouping), detections (arithmetic and masks).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.structures import ImageList, Instances
from pycocotools import mask as coco_mask
from torch import Tensor

from ..modeling.heads.detections import detect
from ..modeling.heads.final_masks import final_masks
from ..modeling.meta_arch import DVIS
from .thresholds import GROUPING_KEYS, apply_thresholds

ALPHA = "MODEL.DVIS_ROI_HEADS.ALPHA"
SCORE_FUSION = "MODEL.DVIS_ROI_HEADS.SCORE_FUSION"
NMS = "MODEL.DVIS_ROI_HEADS.NMS"
CLASS_AGNOSTIC_NMS = "MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC_NMS"
MASK_SOURCE = "MODEL.DVIS_ROI_HEADS.MASK_SOURCE"
NMS_THRESHOLD = "MODEL.ROI_HEADS.NMS_THRESH_TEST"
SCORE_THRESHOLD = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"


@dataclass
class ImageFeatures:
    """The network's output for one image, on the CPU.

    Attributes:
        image_id: as in the data set.
        features: float (1, C, h', w') by name, only those that the heads pool from.
        label_map: float (1, h, w), before the ReLU.
        image_size, output_size: (H, W) of the network's input and of the stored image.
    """

    image_id: int
    features: dict[str, Tensor]
    label_map: Tensor
    image_size: tuple[int, int]
    output_size: tuple[int, int]


@dataclass
class VerifiedProposals:
    """All K candidates of one image after the heads, before any threshold.

    Attributes:
        proposals: as :meth:`DVISROIHeads.candidates` gives them.
        ious, class_probs: (K,) and (K, C) or None, as :meth:`DVISROIHeads.verify` gives them.
        mask_probs: float (K, M, M) in [0, 1]. boxes: float (K, 4), where these lie, in pixels of the input.
        codes: run-length codes by (mask source, k), filled as they are needed; None for an empty mask.
    """

    proposals: Instances
    ious: Tensor
    class_probs: Tensor | None
    mask_probs: Tensor
    boxes: Tensor
    codes: dict[tuple[str, int], dict | None] = field(default_factory=dict)


@torch.no_grad()
def predict_images(model: DVIS, batches: Iterable[list[dict]]) -> list[ImageFeatures]:
    """Run backbone and label head once over batches of one image each, as test loaders give them.

    Memory: the label map and one feature level an image, in float32; 0.3 MB for 128 x 128 pixels with 64 channels at
    stride 4, 11 MB for 700 x 932 with 256 channels at stride 8.
    """
    stored = []
    for batch in batches:
        (inputs,) = batch
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        size = images.image_sizes[0]
        stored.append(
            ImageFeatures(
                image_id=inputs["image_id"],
                features={name: features[name].cpu() for name in model.roi_heads.in_features},
                label_map=model.proposal_generator.label_head(features).cpu(),
                image_size=size,
                output_size=(inputs.get("height", size[0]), inputs.get("width", size[1])),
            )
        )
    return stored


class StoredPredictions:
    """Detections of stored images for any thresholds. The model's own thresholds change as they are tried."""

    def __init__(self, model: DVIS, images: Sequence[ImageFeatures]):
        """
        Args:
            model: the one that made `images`, in evaluation mode.
            images: of :func:`predict_images`.
        """
        self.model = model
        self.images = images
        self._grouping: dict[str, object] | None = None
        self._verified: list[VerifiedProposals] = []

    def detections(self, thresholds: Mapping[str, object]) -> list[list[dict]]:
        """Detections of every image, best first, as DVIS.inference would give them with these thresholds.

        Only the last grouping is kept, so that calls which differ in the heads' keys alone are cheap.

        Args:
            thresholds: a value for every tunable key.

        Returns:
            for each image dicts in COCO's results format, but with Detectron2's contiguous ``category_id``.
        """
        grouping = {key: thresholds[key] for key in GROUPING_KEYS}
        if grouping != self._grouping:
            apply_thresholds(self.model, grouping)
            self._verified = [self._verify(image) for image in self.images]
            self._grouping = grouping
        return [self._select(*pair, thresholds) for pair in zip(self.images, self._verified, strict=True)]

    @torch.no_grad()
    def _verify(self, image: ImageFeatures) -> VerifiedProposals:
        heads, device = self.model.roi_heads, self.model.device
        # of the images only their sizes are read
        sizes = ImageList(torch.empty(0), [image.image_size])
        proposals = self.model.proposal_generator.predict_proposals(image.label_map.to(device), sizes)
        features = [image.features[name].to(device).float() for name in heads.in_features]
        proposals, ((ious, class_probs),) = heads.candidates(features, proposals)
        return VerifiedProposals(
            proposals=proposals[0],
            ious=ious,
            class_probs=class_probs,
            mask_probs=heads.mask_logits(features, proposals).sigmoid(),
            boxes=heads.grown_boxes(proposals[0]),
        )

    def _select(
        self, image: ImageFeatures, verified: VerifiedProposals, thresholds: Mapping[str, object]
    ) -> list[dict]:
        rows, classes, scores = detect(
            verified.proposals.proposal_masks,
            verified.ious,
            verified.class_probs,
            alpha=thresholds[ALPHA],
            fusion=thresholds[SCORE_FUSION],
            score_threshold=thresholds[SCORE_THRESHOLD],
            nms_threshold=thresholds[NMS_THRESHOLD],
            max_detections=self.model.roi_heads.max_detections,
            nms=thresholds[NMS],
            class_agnostic_nms=thresholds[CLASS_AGNOSTIC_NMS],
        )
        rows = rows.tolist()
        codes = self._encode(image, verified, rows, thresholds[MASK_SOURCE])
        return [
            {
                "image_id": image.image_id,
                "category_id": category,
                "segmentation": code,
                "score": score,
            }
            for category, score, code in zip(classes.tolist(), scores.tolist(), codes, strict=True)
            if code is not None
        ]

    def _encode(
        self, image: ImageFeatures, verified: VerifiedProposals, rows: list[int], source: str
    ) -> list[dict | None]:
        """Run-length codes of the rows' final masks; each is made once a source."""
        new = [row for row in dict.fromkeys(rows) if (source, row) not in verified.codes]
        if new:
            masks = final_masks(
                verified.proposals.soft_masks[new],
                verified.mask_probs[new],
                verified.boxes[new],
                source=source,
                stride=self.model.proposal_generator.stride,
                image_size=image.image_size,
                output_size=image.output_size,
            )
            codes = coco_mask.encode(masks.permute(1, 2, 0).cpu().numpy().astype("uint8", order="F"))
            verified.codes |= {
                (source, row): code if coco_mask.area(code) else None for row, code in zip(new, codes, strict=True)
            }
        return [verified.codes[source, row] for row in rows]
