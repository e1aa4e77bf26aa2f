"""COCO's figures for masks without classes, and the overlaps behind them. Masks are COCO run-length codes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from dvis_d2.evaluation.coco_ap import evaluate_coco

METRICS = ("AP", "AP50", "AP75")
RECALLS = ("AR@1", "AR@10", "AR@100", "AR50@100", "AR75@100")


def class_agnostic_ap(coco: COCO, results: list[dict], image_ids: Sequence[int]) -> dict[str, float]:
    """AP (IoU .50:.95), AP50 and AP75 in percent, all classes as one and no limit on the number of masks.

    Args:
        coco: the ground truth; crowds are ignored as COCO does.
        results: dicts with "image_id", "segmentation" (RLE at the image's size) and "score".
        image_ids: images to evaluate, those without results included.

    Returns:
        the metrics by name; NaN where the images hold no object.
    """
    if not len(image_ids):
        return dict.fromkeys(METRICS, float("nan"))
    counts = np.unique([result["image_id"] for result in results], return_counts=True)[1]
    evaluator = evaluate_coco(coco, results, image_ids, use_cats=False, max_dets=(int(counts.max(initial=1)),))
    precision = evaluator.eval["precision"][:, :, 0, 0, 0]  # IoU thresholds x recalls
    return _in_percent(METRICS, (precision.mean(), precision[0].mean(), precision[5].mean()))


def average_recall(coco: COCO, results: list[dict], image_ids: Sequence[int]) -> dict[str, float]:
    """COCO's average recall in percent, all classes as one: the share of objects that are found among the 1, 10 or 100
    masks of the highest scores in an image, averaged over IoU .50:.95; and with 100 masks at IoU .5 and .75.

    Args:
        coco, results, image_ids: as :func:`class_agnostic_ap`.

    Returns:
        `RECALLS` by name; NaN where the images hold no object.
    """
    if not len(image_ids):
        return dict.fromkeys(RECALLS, float("nan"))
    evaluator = evaluate_coco(coco, results, image_ids, use_cats=False, max_dets=(1, 10, 100))
    recall = evaluator.eval["recall"][:, 0, 0]  # IoU thresholds x budgets
    return _in_percent(RECALLS, (*recall.mean(axis=0), recall[0, 2], recall[5, 2]))


def _in_percent(names: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    return {name: 100 * float(share) if share > -1 else float("nan") for name, share in zip(names, shares, strict=True)}


def read_coco(source: str | dict) -> COCO:
    """A COCO data set from its file or its content, without pycocotools' messages."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(source if isinstance(source, str) else None)
        if isinstance(source, dict):
            coco.dataset = source
            coco.createIndex()
    return coco


def coco_of_masks(images: Sequence[tuple[tuple[int, int], list[dict], list[dict]]]) -> COCO:
    """COCO ground truth of one class from each image's (height, width), objects and crowds, as RLE; image i has the
    id i."""
    annotations = []
    for image_id, (_, objects, crowds) in enumerate(images):
        for mask, iscrowd in [(m, 0) for m in objects] + [(m, 1) for m in crowds]:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": iscrowd}
            annotations.append({**annotation, "segmentation": mask, "area": float(mask_util.area(mask))})
    return read_coco(
        {
            "info": {},
            "images": [{"id": i, "height": h, "width": w} for i, ((h, w), *_) in enumerate(images)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "object"}],
        }
    )


def rle_iou(detections: list[dict], objects: list[dict]) -> np.ndarray:
    """float64 (D, G): IoU of D and G masks."""
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    return np.asarray(mask_util.iou(detections, objects, [0] * len(objects)))


def best_overlaps(detections: list[dict], objects: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The best IoU of every detection (D,) and of every object (G,), in [0, 1]; 0 where there is no partner."""
    iou = rle_iou(detections, objects)
    return iou.max(axis=1, initial=0), iou.max(axis=0, initial=0)
