"""The report's numbers, as JSON has them."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..evaluation.coco_ap import average_precision, evaluate_coco
from ..evaluation.comparison import coco_of_masks
from ..evaluation.error_kinds import error_costs
from .collect import SHOWN_SCORE, Judged

CURVE_IOUS = (0.5, 0.75)
BINS = 10


def summarize(judged: Sequence[Judged], class_names: Sequence[str]) -> dict[str, Any]:
    """All that is said of a model's results: plain values, None for what there is none of."""
    records = [own.record for own in judged]
    coco = coco_of_masks([(r.size, r.objects, r.object_classes, r.crowd) for r in records], len(class_names))
    results = [
        {"image_id": i, "category_id": kind, "segmentation": rle, "score": score}
        for i, record in enumerate(records)
        for rle, kind, score in zip(record.found, record.classes, record.scores, strict=True)
    ]
    whole = evaluate_coco(coco, results)
    precision = whole.eval["precision"][..., 0, 0]  # IoUs, recalls, classes
    per_class = []
    objects = Counter(k for r in records for k, crowd in zip(r.object_classes, r.crowd, strict=True) if not crowd)
    for k, name in enumerate(class_names):
        own = precision[:, :, k]
        ap = [float(100 * part[part > -1].mean()) if (part > -1).any() else None for part in (own, own[:1], own[5:6])]
        per_class.append({"class": name, "objects": objects[k], "AP": ap[0], "AP50": ap[1], "AP75": ap[2]})
    counts = [sum(not crowd for crowd in r.crowd) for r in records]
    costs = error_costs(records, [own.errors for own in judged])
    return {
        "images": len(records),
        "objects": sum(counts),
        "ap": {name: average_precision(whole, iou=t) for name, t in (("AP", None), ("AP50", 0.5), ("AP75", 0.75))},
        "classes": per_class,
        "by_size": _by_size(coco, results),
        "by_count": _by_count(coco, results, counts),
        "curves": {f"{t:g}": _curve(precision, whole.params.iouThrs, t) for t in CURVE_IOUS},
        "confusion": _confusion(judged, len(class_names)),
        "calibration": _calibration(judged),
        "tide": costs["tide"],
        "own": costs["own"],
    }


def _by_size(coco: COCO, results: list[dict]) -> list[dict[str, Any]]:
    """AP of the small, medium and large objects, a third of the objects each."""
    areas, rows = np.array([a["area"] for a in coco.anns.values() if not a["iscrowd"]] or [0]), []
    ends = np.unique(np.quantile(areas, [0, 1 / 3, 2 / 3, 1]).round().astype(int)).tolist()
    for low, high in zip(ends, [*ends[1:-1], ends[-1] + 1], strict=False):
        if count := int(((areas >= low) & (areas < high)).sum()):
            ap = average_precision(evaluate_coco(coco, results, areas=(low, high - 0.5)))
            rows.append({"pixels": f"{low} to {high - 1}", "objects": count, "AP": ap})
    return rows


def _by_count(coco: COCO, results: list[dict], counts: Sequence[int]) -> list[dict[str, Any]]:
    """AP of the images with few, more and most objects, a third of the images each."""
    numbers, rows = np.array(counts, int), []
    ends = np.unique(np.quantile(numbers, [0, 1 / 3, 2 / 3, 1]).round().astype(int)).tolist()
    for low, high in zip([ends[0] - 1, *ends[1:]], ends[1:], strict=False):
        chosen = np.flatnonzero((numbers > low) & (numbers <= high)).tolist()
        if chosen and numbers[chosen].any():
            ap = average_precision(evaluate_coco(coco, results, chosen))
            rows.append({"objects": f"{low + 1} to {high}", "images": len(chosen), "AP": ap})
    return rows


def _curve(precision: np.ndarray, ious: np.ndarray, iou: float) -> list[float]:
    """Precision at recall 0, 0.01, ..., 1: the mean over the classes that occur."""
    own = precision[np.isclose(ious, iou)][0]
    own = own[:, (own > -1).all(0)]
    return own.mean(1).round(4).tolist() if own.size else []


def _confusion(judged: Sequence[Judged], num_classes: int) -> list[list[int]]:
    """(C + 1, C + 1): objects by their class and the class found in their place at IoU 0.5, by detections with at least
    `SHOWN_SCORE`; the last column counts the missed, the last row the invented."""
    table = np.zeros((num_classes + 1, num_classes + 1), int)
    for own in judged:
        record, iou = own.record, own.errors.comparison.iou
        free = ~np.array(record.crowd, bool)
        crowds = ~free
        for d, (kind, score) in enumerate(zip(record.classes, record.scores, strict=True)):
            if score < SHOWN_SCORE:
                break
            fits = np.where(free, iou[d], 0) if len(free) else np.zeros(1)
            # of two objects that fit, the one of its class
            best = int((fits + (fits >= 0.5) * (np.array(record.object_classes + [-1])[: len(fits)] == kind)).argmax())
            if fits[best] >= 0.5:
                free[best] = False
                table[record.object_classes[best], kind] += 1
            elif not (len(crowds) and (iou[d][crowds] >= 0.5).any()):
                table[-1, kind] += 1
        for g in np.flatnonzero(free):
            table[record.object_classes[g], -1] += 1
    return table.tolist()


def _calibration(judged: Sequence[Judged]) -> dict[str, Any]:
    """In ten ranges of the score how many detections there are and which share is right, at IoU 0.5; "error" is the
    mean distance of the two."""
    pairs = [zip(own.record.scores, own.errors.found, strict=True) for own in judged]
    said = [(score, float(wrong == "")) for pair in pairs for score, wrong in pair if wrong is not None]
    scores, right = np.array(said, float).reshape(-1, 2).T
    numbers, rows = np.minimum((scores * BINS).astype(int), BINS - 1), []
    for k in range(BINS):
        if (own := numbers == k).any():
            means = {"score": float(scores[own].mean()), "right": float(right[own].mean())}
            rows.append(means | {"count": int(own.sum())})
    distances = [row["count"] * abs(row["score"] - row["right"]) for row in rows]
    return {"ranges": rows, "error": sum(distances) / len(said) if said else None}


def read_curves(folder: Path, most: int = 400) -> dict[str, list[tuple[float, float]]]:
    """(iteration, value) of the losses and of validation, at most so many each, from a training's metrics.json or
    metrics.csv; {} without these."""
    rows: list[dict[str, Any]] = []
    if (path := folder / "metrics.json").is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue  # a line that a killed training did not end
    elif (path := folder / "metrics.csv").is_file():
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            wanted = name in ("total_loss", "validation/AP") or name.startswith("loss_")
            if wanted and isinstance(value, (int, float)) and np.isfinite(value) and "iteration" in row:
                curves.setdefault(name, []).append((float(row["iteration"]), float(value)))
    return {name: points[:: -(-len(points) // most)] for name, points in curves.items()}
