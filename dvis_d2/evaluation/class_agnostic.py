"""COCO's figures for masks without classes, and the overlaps behind them. Masks are COCO run-length codes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = ("AP", "AP50", "AP75")


def class_agnostic_ap(coco: COCO, results: list[dict], image_ids: Sequence[int]) -> dict[str, float]:
    """AP (IoU .50:.95), AP50 and AP75 in percent, all classes as one and no limit on the number of masks.

    Args:
        coco: the ground truth; crowds are ignored as COCO does.
        results: dicts with "image_id", "segmentation" (RLE at the image's size) and "score".
        image_ids: images to evaluate, those without results included.

    Returns:
        the metrics by name; NaN where the images hold no object.
    """
    objects = [a for a in coco.loadAnns(coco.getAnnIds(imgIds=list(image_ids))) if not a.get("iscrowd", 0)]
    if not objects:
        return dict.fromkeys(METRICS, float("nan"))
    if not results:
        return dict.fromkeys(METRICS, 0.0)
    category = coco.getCatIds()[0]
    detections = [{**result, "category_id": category} for result in results]
    counts = np.unique([result["image_id"] for result in results], return_counts=True)[1]
    with contextlib.redirect_stdout(io.StringIO()):  # progress and a table of sizes
        evaluation = COCOeval(coco, coco.loadRes(detections), "segm")
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [int(counts.max())]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # IoU thresholds x recalls
    values = precision.mean(), precision[0].mean(), precision[5].mean()
    return {name: 100 * float(value) for name, value in zip(METRICS, values, strict=True)}


def coco_of_masks(images: Sequence[tuple[tuple[int, int], list[dict], list[dict]]]) -> COCO:
    """COCO ground truth of one class from each image's (height, width), objects and crowds, as RLE; image i has the
    id i."""
    annotations = []
    for image_id, (_, objects, crowds) in enumerate(images):
        for mask, iscrowd in [(m, 0) for m in objects] + [(m, 1) for m in crowds]:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": iscrowd}
            annotations.append({**annotation, "segmentation": mask, "area": float(mask_util.area(mask))})
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i, "height": h, "width": w} for i, ((h, w), *_) in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def rle_iou(detections: list[dict], objects: list[dict]) -> np.ndarray:
    """float64 (D, G): IoU of D and G masks."""
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    return np.asarray(mask_util.iou(detections, objects, [0] * len(objects)))


def best_overlaps(detections: list[dict], objects: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The best IoU of every detection (D,) and of every object (G,), in [0, 1]; 0 where there is no partner."""
    iou = rle_iou(detections, objects)
    return iou.max(axis=1, initial=0), iou.max(axis=0, initial=0)
