"""What the network said about a set of images, stored so that other thresholds need no second run of it.

Three layers, each computed from the one before: features and label maps (the network, once), proposals with their
class probability and IoU (grouping and the small heads, once for each grouping), detections (arithmetic and masks).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.structures import ImageList, Instances
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import SequentialSampler

from ..data import DVISDatasetMapper
from ..modeling.grouping import Grouping
from ..modeling.meta_arch import DVIS
from .thresholds import GROUPING_KEYS, apply_thresholds


class ImageFeatures(NamedTuple):
    image_id: int
    features: dict[str, Tensor]  # float (1, C, h', w') on the CPU, only those that the heads pool from
    label_map: Tensor  # float (1, h, w) on the CPU, before the ReLU
    image_size: tuple[int, int]  # (H, W) of the network's input
    output_size: tuple[int, int]  # (H, W) of the stored image


@torch.no_grad()
def predict_images(model: DVIS, batches: Iterable[list[dict]]) -> list[ImageFeatures]:
    """Run backbone and label head once over batches of one image each, as test loaders give them. An image takes 0.3 MB
    for 128 x 128 pixels with 64 channels at stride 4, 11 MB for 700 x 932 with 256 channels at stride 8."""
    stored = []
    for batch in batches:
        (inputs,) = batch
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        pooled = {name: features[name].cpu() for name in model.roi_heads.in_features}
        label_map = model.proposal_generator.label_head(features).cpu()
        height, width = size = images.image_sizes[0]
        output_size = inputs.get("height", height), inputs.get("width", width)
        stored.append(ImageFeatures(inputs["image_id"], pooled, label_map, size, output_size))
    return stored


def stored_images(cfg: CfgNode, model: DVIS, *, num_images: int) -> list[ImageFeatures]:
    """:func:`predict_images` on at most `num_images` evenly chosen images of ``DATASETS.TEST[0]``, by ascending id.
    The model is left in evaluation mode."""
    dicts = sorted(get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False), key=lambda d: d["image_id"])
    if len(dicts) > num_images:
        dicts = [dicts[i] for i in np.linspace(0, len(dicts) - 1, num_images).round().astype(int)]
    mapper, num_workers = DVISDatasetMapper(cfg, is_train=False), cfg.DATALOADER.NUM_WORKERS
    sampler = SequentialSampler(dicts)  # the default would give every process of a distributed run its share only
    model.eval()
    loader = build_detection_test_loader(dicts, mapper=mapper, sampler=sampler, num_workers=num_workers)
    return predict_images(model, loader)


@torch.no_grad()
def group_image(model: DVIS, image: ImageFeatures) -> Grouping:
    """The grouping of a stored image by the model's present thresholds."""
    # of the images only their sizes are read
    sizes = ImageList(torch.empty(0), [image.image_size])
    return model.proposal_generator.group(image.label_map.to(model.device), sizes)[0]


@torch.no_grad()
def verify_image(model: DVIS, image: ImageFeatures, grouping: Grouping) -> Instances:
    """What the heads say of its proposals: :meth:`DVISROIHeads.verify`, with ``mask_probs`` and ``pred_boxes``, which
    detections need."""
    heads = model.roi_heads
    proposals = model.proposal_generator.to_proposals([grouping], ImageList(torch.empty(0), [image.image_size]))
    features = [image.features[name].to(model.device).float() for name in heads.in_features]
    proposals = heads.verify(features, proposals)
    proposals[0].mask_probs = heads.mask_probs(features, proposals)[0]
    proposals[0].pred_boxes = proposals[0].roi_boxes
    return proposals[0]


class StoredPredictions:
    """Detections of stored images for any thresholds. The model's own thresholds change as they are tried."""

    def __init__(self, model: DVIS, images: Sequence[ImageFeatures]):
        """The model is the one that made `images`, in evaluation mode."""
        self.model = model
        self.images = images
        self._grouping: dict[str, Any] = {}
        # each with its verified proposals, which have `mask_probs` too, and their RLE by mask source and row
        self._verified: list[tuple[ImageFeatures, Instances, dict[tuple[str, int], dict]]] = []

    def detections(self, thresholds: Mapping[str, Any]) -> list[list[dict]]:
        """Detections of every image, best first, as DVIS.inference would give them with these values of all tunable
        keys: dicts in COCO's results format, but with Detectron2's contiguous ``category_id``.

        Only the last grouping is kept, so that calls which differ in the heads' keys alone are cheap.
        """
        apply_thresholds(self.model, thresholds)
        grouping = {key: thresholds[key] for key in GROUPING_KEYS}
        if grouping != self._grouping:
            self._verified = [(image, self._verify(image), {}) for image in self.images]
            self._grouping = grouping
        return [self._detect(*verified) for verified in self._verified]

    def _verify(self, image: ImageFeatures) -> Instances:
        return verify_image(self.model, image, group_image(self.model, image))

    def _detect(self, image: ImageFeatures, proposals: Instances, codes: dict) -> list[dict]:
        heads = self.model.roi_heads
        source, (rows, classes, scores) = heads.mask_source, heads.detect(proposals)
        new = [row for row in dict.fromkeys(rows.tolist()) if (source, row) not in codes]
        if new:
            masks = heads.draw_masks(proposals, image.output_size, new)
            codes |= zip(((source, row) for row in new), masks.to_rle(), strict=True)
        found = [
            {"image_id": image.image_id, "category_id": category, "segmentation": codes[source, row], "score": score}
            for row, category, score in zip(rows.tolist(), classes.tolist(), scores.tolist(), strict=True)
        ]
        return [detection for detection in found if coco_mask.area(detection["segmentation"])]
