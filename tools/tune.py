#!/usr/bin/env python
"""Tune the inference thresholds of a trained model on validation data and store them beside its weights.

    python tools/tune.py --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth
    python tools/tune.py --sweep-alpha --plot alpha.png --config-file ... MODEL.WEIGHTS ...

The network runs once over the images. Half of them are tuned on; what is reported, and whether the tuned values are
stored at all, is decided on the other half. See docs/tuning.md.
"""

import argparse
import json
import os
import time

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure
from tabulate import tabulate

from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.tuning import CocoScorer, StoredPredictions, current_thresholds, tune_thresholds
from dvis_d2.tuning.predictions import ALPHA
from dvis_d2.tuning.scoring import average_precision
from dvis_d2.tuning.search import store_tuning, stored_images

ALPHAS = [round(0.1 * step, 1) for step in range(11)]
IOUS = (0.5, 0.7, 0.8, 0.9)  # of the paper's Fig. 5


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    parser.add_argument("--num-images", type=int, default=400, help="at most so many, evenly chosen, both halves")
    parser.add_argument("--sweep-alpha", action="store_true", help="only print AP at four IoUs for alpha 0..1")
    parser.add_argument("--plot", metavar="FILE", help="with --sweep-alpha: draw the table too")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def sweep_alpha(cfg, model, *, num_images: int) -> list[dict]:
    """AP in 0..100 at every alpha: {"alpha", "AP", "AP50", "AP70", "AP80", "AP90"}; the network runs once."""
    predictions = StoredPredictions(model, stored_images(cfg, model, num_images=num_images))
    scorer, thresholds = CocoScorer(cfg.DATASETS.TEST[0]), current_thresholds(cfg)
    image_ids = [image.image_id for image in predictions.images]
    rows = []
    for alpha in ALPHAS:
        evaluator = scorer.evaluate(predictions.detections(thresholds | {ALPHA: alpha}), image_ids)
        at_iou = {f"AP{100 * iou:.0f}": average_precision(evaluator, iou=iou) for iou in IOUS}
        rows.append({"alpha": alpha, "AP": average_precision(evaluator), **at_iou})
    return rows


def plot(rows: list[dict], path: str) -> None:
    """The table of :func:`sweep_alpha` as curves over alpha."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="alpha (weight of the predicted IoU)", ylabel="segm AP")
    for name in list(rows[0])[1:]:
        axes.plot(ALPHAS, [row[name] for row in rows], marker="o", label=name)
    axes.legend()
    figure.savefig(path, dpi=100)


def main():
    args = get_parser().parse_args()
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=args.sweep_alpha)
    weights = cfg.MODEL.WEIGHTS
    if not os.path.isfile(weights):
        raise SystemExit(f"MODEL.WEIGHTS is {weights!r}, not a file: append MODEL.WEIGHTS and a trained model's path")
    if not cfg.DATASETS.TEST:
        raise SystemExit("DATASETS.TEST is empty: append DATASETS.TEST and the data set to tune on")
    start = time.perf_counter()
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    with torch.no_grad():
        if args.sweep_alpha:
            rows = sweep_alpha(cfg, model, num_images=args.num_images)
            print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
            if args.plot:
                plot(rows, args.plot)
            print(json.dumps({"alpha": rows}))
            return
        tuning = tune_thresholds(cfg, model, num_images=args.num_images)
    path = store_tuning(tuning, os.path.dirname(weights))
    print(f"{tuning.table()}\n{tuning.verdict()}\n{path} written after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
