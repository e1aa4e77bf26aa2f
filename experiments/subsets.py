"""COCO's figures on some of the images, from predictions that were stored already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO

from dvis_d2.evaluation.coco_ap import evaluate_coco


def image_subsets(dataset: dict) -> dict[str, list[int]]:
    """Ids of the images that are hard in one way, by the flags that the built-in shapes carry.

    Args:
        dataset: the content of a COCO JSON.

    Returns:
        "split": images with an object that an occluder cuts in parts (annotations with a true "split"); "copies":
        images of identical copies (images with a true "copies"). A subset without images is left out, so data sets
        without these flags have none.
    """
    subsets = {
        "split": {annotation["image_id"] for annotation in dataset["annotations"] if annotation.get("split")},
        "copies": {image["id"] for image in dataset["images"] if image.get("copies")},
    }
    return {name: sorted(ids) for name, ids in subsets.items() if ids}


def mask_ap(coco: COCO, results: Sequence[dict], image_ids: Sequence[int], *, max_dets: int = 100) -> dict[str, float]:
    """Mask AP (IoU .50:.95), AP50 and AP75 on some images, in percent: over all classes that occur in them.

    On all images of `coco` these are the figures of Detectron2's `COCOEvaluator`.

    Args:
        coco: the ground truth.
        results: COCO's result format: "image_id", "category_id", "segmentation" (RLE), "score". Those on other images
            do not count.
        image_ids: at least one.
        max_dets: detections that count, an image and class.

    Returns:
        0 without any result; NaN where the images hold no object.
    """
    evaluation = evaluate_coco(coco, results, image_ids, max_dets=(max_dets,))
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # IoU thresholds x recalls x classes; -1: no object
    precision = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not precision.size:
        return dict.fromkeys(("AP", "AP50", "AP75"), float("nan"))
    rows = {"AP": slice(None), "AP50": 0, "AP75": 5}
    return {name: 100 * float(np.mean(precision[row])) for name, row in rows.items()}
