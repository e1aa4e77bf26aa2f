#!/usr/bin/env python
"""Tune the inference thresholds of a trained model on validation data and store them beside its weights.

    python tools/tune.py --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth
    python tools/tune.py --sweep-alpha --plot alpha.png --config-file ... MODEL.WEIGHTS ...
    python tools/tune.py --sweep-nms --config-file ... MODEL.WEIGHTS ...

The network runs once over the images. Half of them are tuned on; what is reported, and whether the tuned values are
stored at all, is decided on the other half. The sweeps report on all images and store nothing. See docs/tuning.md.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure
from tabulate import tabulate

from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.modeling.heads.detections import NMS_KINDS, SCORE_FUSIONS
from dvis_d2.tuning import CocoScorer, StoredPredictions, current_thresholds, tune_thresholds
from dvis_d2.tuning.predictions import ALPHA, CLASS_AGNOSTIC_NMS, NMS, SCORE_FUSION
from dvis_d2.tuning.scoring import average_precision
from dvis_d2.tuning.search import store_tuning, stored_images

ALPHAS = [round(0.1 * step, 1) for step in range(11)]
IOUS = (0.5, 0.7, 0.8, 0.9)  # of the paper's Fig. 5
NMS_SETTINGS = {NMS: NMS_KINDS, CLASS_AGNOSTIC_NMS: (False, True)}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    parser.add_argument("--num-images", type=int, default=400, help="at most so many, evenly chosen, both halves")
    sweeps = parser.add_mutually_exclusive_group()
    sweeps.add_argument("--sweep-alpha", action="store_true", help="only print AP for alpha 0..1, both score fusions")
    sweeps.add_argument("--sweep-nms", action="store_true", help="only print AP for each kind of suppression")
    parser.add_argument("--plot", metavar="FILE", help="with --sweep-alpha: draw the table too")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def sweep(cfg, model, settings: Mapping[str, Sequence], *, num_images: int) -> list[dict]:
    """AP in 0..100 at every combination of some keys' values; the network runs once.

    Returns:
        for each combination the last part of every key in lower case with its value, "AP", "AP50", "AP70", "AP80",
        "AP90", and "detections", an image.
    """
    predictions = StoredPredictions(model, stored_images(cfg, model, num_images=num_images))
    scorer = CocoScorer(cfg.DATASETS.TEST[0], class_agnostic=cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC)
    thresholds, image_ids = current_thresholds(cfg), [image.image_id for image in predictions.images]
    rows = []
    for values in itertools.product(*settings.values()):
        detections = predictions.detections(thresholds | dict(zip(settings, values, strict=True)))
        evaluator = scorer.evaluate(detections, image_ids)
        names = [key.split(".")[-1].lower() for key in settings]
        at_iou = {f"AP{100 * iou:.0f}": average_precision(evaluator, iou=iou) for iou in IOUS}
        count = sum(map(len, detections)) / len(image_ids)
        row = {"AP": average_precision(evaluator), **at_iou, "detections": count}
        rows.append(dict(zip(names, values, strict=True)) | row)
    return rows


def plot(rows: list[dict], path: str) -> None:
    """The table of the sweep over alpha as curves, those of the product dashed."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="alpha (weight of the predicted IoU)", ylabel="segm AP")
    for fusion, line in zip(SCORE_FUSIONS, ("-", "--"), strict=True):
        for color, name in enumerate(("AP", *(f"AP{100 * iou:.0f}" for iou in IOUS))):
            values = [row[name] for row in rows if row["score_fusion"] == fusion]
            axes.plot(ALPHAS, values, line, marker="o", color=f"C{color}", label=f"{name}, {fusion}")
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=100)


def main():
    args = get_parser().parse_args()
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=args.sweep_alpha or args.sweep_nms)
    weights = cfg.MODEL.WEIGHTS
    if not os.path.isfile(weights):
        raise SystemExit(f"MODEL.WEIGHTS is {weights!r}, not a file: append MODEL.WEIGHTS and a trained model's path")
    if not cfg.DATASETS.TEST:
        raise SystemExit("DATASETS.TEST is empty: append DATASETS.TEST and the data set to tune on")
    if args.sweep_alpha and cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC:
        raise SystemExit("--sweep-alpha: class-agnostic heads have no class probability to weigh the IoU against")
    start = time.perf_counter()
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    with torch.no_grad():
        if args.sweep_alpha or args.sweep_nms:
            keys = {SCORE_FUSION: SCORE_FUSIONS, ALPHA: ALPHAS} if args.sweep_alpha else NMS_SETTINGS
            rows = sweep(cfg, model, keys, num_images=args.num_images)
            print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))
            if args.sweep_alpha and args.plot:
                plot(rows, args.plot)
            print(json.dumps({"alpha" if args.sweep_alpha else "nms": rows}))
            return
        tuning = tune_thresholds(cfg, model, num_images=args.num_images)
    path = store_tuning(tuning, os.path.dirname(weights))
    print(f"{tuning.table()}\n{tuning.verdict()}\n{path} written after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
