#!/usr/bin/env python
"""What the labels add: a trained network beside the connected components of its own foreground.

    python tools/evaluate_baseline.py --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth

The baseline ignores the labels: its proposals are the connected components of the cells above the foreground
threshold, verified by the same heads. Both are tuned alike, over the same grids of thresholds (the baseline leaves out
those without an effect on it) on one half of DATASETS.TEST[0], and detect in the other half with what was found, and
the other way round. So every image is reported on once, with thresholds that never saw it. Prints a table, and as its
last line one JSON object; stores nothing.
"""

import argparse
import json

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.tuning import CocoScorer, StoredPredictions, coordinate_descent, current_thresholds, split_halves
from dvis_d2.tuning.scoring import average_precision
from dvis_d2.tuning.search import GRID, MIN_GAIN, stored_images

READINGS, LINK_THRESHOLDS = "MODEL.MEAN_SHIFT.READINGS", "MODEL.MEAN_SHIFT.LINK_THRESHOLDS"
# every two neighbours in the foreground are linked, whatever their labels
COMPONENTS = {READINGS: ["linked"], LINK_THRESHOLDS: [1e9]}
WITHOUT_EFFECT = {*COMPONENTS, "MODEL.MEAN_SHIFT.BANDWIDTHS", "MODEL.MEAN_SHIFT.CRUMB_RATIO"}
IOUS = {"AP": None, "AP50": 0.5, "AP75": 0.75}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    parser.add_argument("--num-images", type=int, default=400, help="at most so many, evenly chosen")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


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


def main():
    args = get_parser().parse_args()
    setup_logger(name="fvcore")
    cfg = setup_cfg(args)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    with torch.no_grad():
        images = stored_images(cfg, model, num_images=args.num_images)
        ids = split_halves([image.image_id for image in images])
        if not ids[1]:
            raise SystemExit(f"{cfg.DATASETS.TEST[0]} has {len(images)} images: one half would be empty")
        halves = [StoredPredictions(model, [image for image in images if image.image_id in set(half)]) for half in ids]
        scorer = CocoScorer(cfg.DATASETS.TEST[0], class_agnostic=cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC)
        start = current_thresholds(cfg)
        baseline_grid = {key: values for key, values in GRID.items() if key not in WITHOUT_EFFECT}
        result = {
            "network": cross_tuned(halves, scorer, start, GRID),
            "foreground components": cross_tuned(halves, scorer, start | COMPONENTS, baseline_grid),
        }
    rows = [[name, *(figures[key] for key in IOUS)] for name, figures in result.items()]
    print(tabulate(rows, headers=["", *IOUS], tablefmt="github", floatfmt=".1f"))
    for name, figures in result.items():
        for number, tuned in enumerate(figures["tuned"], start=1):
            print(f"{name}, half {number}: {tuned or 'nothing changed'}")
    print(json.dumps({"dataset": cfg.DATASETS.TEST[0], "weights": cfg.MODEL.WEIGHTS, "images": len(images), **result}))


if __name__ == "__main__":
    main()
