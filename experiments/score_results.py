#!/usr/bin/env python
"""Score files of masks in COCO's results format, by whatever program: AP, and the Data Science Bowl's mean precision.

    dvis predict data/nuclei/dev.json --model nuclei --confidence-threshold 0.05 --save results -o output/found
    python -m experiments.score_results data/nuclei/dev.json output/found/results.json

The mean precision is that of the 2018 Data Science Bowl: of each image TP / (TP + FP + FN) at IoU .5, .55, ..., .95,
where no two masks share a pixel: of those with a score of at least --score the better one has it. Without --score the
best of .1, .2, ..., .9 is taken. The recall at IoU .5, by the best 100 masks of an image, is of the smallest quarter of
the objects and of the others, inside the image and cut by its border. Prints tables and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dvis_d2.evaluation.coco_ap import average_precision, evaluate_coco

from .tables import markdown_table, without_nan

IOUS = np.arange(0.5, 1, 0.05)
RECALLS = ("small, inside", "small, border", "large, inside", "large, border")
MOST = 100  # masks of an image, the best, as for COCO's AP
SCORES = [k / 10 for k in range(1, 10)]


def mean_precision(found: np.ndarray, objects: np.ndarray) -> float:
    """In 0..1, of two images of numbers, int (H, W), 0 is the ground; 1 where both are empty. No mask can have an IoU
    above 1/2 with two, so that nothing need be chosen."""
    found, objects = (np.unique(x, return_inverse=True)[1].reshape(x.shape) + (0 not in x) for x in (found, objects))
    counts = found.max() + 1, objects.max() + 1
    shared = np.bincount((found * counts[1] + objects).ravel(), minlength=counts[0] * counts[1]).reshape(counts)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    iou = (shared / union.clip(1))[1:, 1:]
    hits = (iou.reshape(-1, 1) > IOUS).sum(0)
    total = sum(counts) - 2 - hits
    return float((hits / total).mean()) if sum(counts) > 2 else 1.0


def painted(masks: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Numbers from 1, int (H, W); the first of several that share a pixel has it."""
    numbers = np.zeros(shape, np.int64)
    for k, mask in enumerate(masks):
        numbers[(mask > 0) & (numbers == 0)] = k + 1
    return numbers


def recall(coco: COCO, results: list[dict], iou: float = 0.5) -> dict[str, float]:
    """In percent, by :data:`RECALLS`: of the smallest quarter of the objects and of the others, inside the image and
    cut by its border; NaN where there are none."""
    of_image = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        of_image[result["image_id"]].append(result["segmentation"])
    objects = []  # area, at the border, found
    for key, image in coco.imgs.items():
        masks = [coco.annToRLE(a) for a in coco.imgToAnns[key] if not a.get("iscrowd", 0)]
        if not masks:
            continue
        x, y, width, height = coco_mask.toBbox(masks).T
        border = (x == 0) | (y == 0) | (x + width == image["width"]) | (y + height == image["height"])
        own = of_image[key][:MOST]
        ious = coco_mask.iou(masks, own, [0] * len(own)) if own else np.zeros((len(masks), 1))
        objects += zip(coco_mask.area(masks), border, ious.max(axis=1) >= iou, strict=True)
    area, border, found = np.array(objects).reshape(-1, 3).T.astype(int)
    small = area <= (np.quantile(area, 0.25) if len(area) else 0)
    groups = [part & (border == cut) for part in (small, ~small) for cut in (0, 1)]
    means = (100 * float(found[own].mean()) if own.any() else math.nan for own in groups)
    return dict(zip(RECALLS, means, strict=True))


def score(coco: COCO, results: list[dict], least: float | None) -> dict:
    evaluator = evaluate_coco(coco, results)
    of_image = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        of_image[result["image_id"]].append(result)
    precisions = defaultdict(list)
    for key, image in coco.imgs.items():
        shape = image["height"], image["width"]
        objects = painted([coco.annToMask(a) for a in coco.imgToAnns[key]], shape)
        masks = [coco_mask.decode(result["segmentation"]) for result in of_image[key]]
        for threshold in SCORES if least is None else [least]:
            count = sum(result["score"] >= threshold for result in of_image[key])
            precisions[threshold].append(mean_precision(painted(masks[:count], shape), objects))
    threshold, values = max(precisions.items(), key=lambda item: float(np.mean(item[1])))
    ap = {f"AP{round(100 * iou) if iou else ''}": average_precision(evaluator, iou=iou) for iou in (None, 0.5, 0.75)}
    return ap | {"mean_precision": 100 * float(np.mean(values)), "score": threshold}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", metavar="COCO.json")
    parser.add_argument("results", nargs="+", metavar="RESULTS.json")
    parser.add_argument("--score", type=float, help="least score of a mask, for the mean precision")
    args = parser.parse_args(argv)
    with contextlib.redirect_stdout(io.StringIO()):  # progress
        coco = COCO(args.annotations)
    rows = []
    for path in args.results:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
        rows.append({"file": path} | score(coco, results, args.score) | recall(coco, results))
    for columns in (("AP", "AP50", "AP75", "mean_precision", "score"), RECALLS):
        cells = [[row["file"], *(f"{row[name]:.1f}" for name in columns)] for row in rows]
        print(markdown_table(cells, ["file", *(name.replace("_", " ") for name in columns)]))
    print(json.dumps({"rows": without_nan(rows)}))


if __name__ == "__main__":
    main()
