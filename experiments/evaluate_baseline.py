#!/usr/bin/env python
"""What the labels add: a trained network beside the regions of its own foreground.

    python -m experiments.evaluate_baseline --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth

The baseline ignores the labels: its proposals are the regions of a map that is 2 above the config's foreground
threshold and 0 elsewhere, cut at necks alone, and the same heads verify them. Both are tuned alike, over the same grids
of thresholds (the baseline leaves out those without an effect on it) on one half of DATASETS.TEST[0], and detect in the
other half with what was found, and the other way round. So every image is reported on once, with thresholds that never
saw it. Prints a table, and as its last line one JSON object; stores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from detectron2.utils.logger import setup_logger

from dvis_d2.engine import setup_cfg
from dvis_d2.evaluation.coco_ap import average_precision
from dvis_d2.tuning import (
    CocoScorer,
    StoredPredictions,
    coordinate_descent,
    current_thresholds,
    split_halves,
    stored_images,
)
from dvis_d2.tuning.predictions import ImageFeatures
from dvis_d2.tuning.search import GRID, MIN_GAIN

from .program import config_parser, load_trained_model
from .tables import markdown_table

CANDIDATES = "MODEL.MEAN_SHIFT.CANDIDATES"
_OF_LABELS = ("BANDWIDTHS", "FOREGROUND_THRESHOLD", "MIN_PART_RATIO", "STEP_THRESHOLD")
WITHOUT_EFFECT = {CANDIDATES, *(f"MODEL.MEAN_SHIFT.{name}" for name in _OF_LABELS)}
IOUS = {"AP": None, "AP50": 0.5, "AP75": 0.75}


def cross_tuned(halves: list[StoredPredictions], scorer: CocoScorer, start: dict, grid: dict) -> dict:
    """AP, AP50 and AP75 in 0..100 over both halves, each detected in with thresholds tuned on the other; and those
    thresholds, of the first half's detections first."""
    ids = [[image.image_id for image in half.images] for half in halves]
    detections, tuned = [], []
    for detected, other in ((0, 1), (1, 0)):

        def evaluate(setting: dict, half: int = other) -> float:
            return average_precision(scorer.evaluate(halves[half].detections(setting), ids[half]))

        setting, _ = coordinate_descent(evaluate, start, grid, min_gain=MIN_GAIN)
        detections += halves[detected].detections(setting)
        tuned.append({key: value for key, value in setting.items() if value != start[key]})
    evaluator = scorer.evaluate(detections, ids[0] + ids[1])
    return {name: average_precision(evaluator, iou=iou) for name, iou in IOUS.items()} | {"tuned": tuned}


def without_labels(image: ImageFeatures, threshold: float) -> ImageFeatures:
    """The image with the foreground alone in its label map."""
    foreground = (image.label_map > threshold).to(image.label_map.dtype)
    return image._replace(label_map=foreground * (threshold + 2) - (1 - foreground))


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--num-images", type=int, default=400, help="at most so many, evenly chosen")
    args = parser.parse_args(argv)
    setup_logger(name="fvcore")
    cfg = setup_cfg(args)
    model = load_trained_model(cfg)
    dataset = cfg.DATASETS.TEST[0]
    with torch.no_grad():
        images = stored_images(cfg, model, num_images=args.num_images)
        ids = split_halves([image.image_id for image in images])
        if not ids[1]:
            raise SystemExit(f"{dataset} has {len(images)} images: one half would be empty")
        halves = [StoredPredictions(model, [image for image in images if image.image_id in set(half)]) for half in ids]
        threshold = cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD
        alone = [StoredPredictions(model, [without_labels(image, threshold) for image in h.images]) for h in halves]
        scorer = CocoScorer(dataset)
        start = current_thresholds(cfg)
        baseline_grid = {key: values for key, values in GRID.items() if key not in WITHOUT_EFFECT}
        result = {
            "network": cross_tuned(halves, scorer, start, GRID),
            "foreground alone": cross_tuned(alone, scorer, start | {CANDIDATES: ["regions"]}, baseline_grid),
        }
    rows = [[name, *(f"{figures[key]:.1f}" for key in IOUS)] for name, figures in result.items()]
    print(markdown_table(rows, ["", *IOUS]))
    for name, figures in result.items():
        for number, tuned in enumerate(figures["tuned"], start=1):
            print(f"{name}, half {number}: {tuned or 'nothing changed'}")
    print(json.dumps({"dataset": dataset, "weights": cfg.MODEL.WEIGHTS, "images": len(images), **result}))


if __name__ == "__main__":
    main()
