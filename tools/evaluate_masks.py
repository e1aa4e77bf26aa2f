#!/usr/bin/env python
"""The three sources of final masks, of the same detections of one trained network.

    python tools/evaluate_masks.py --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth

The network and the heads run once over DATASETS.TEST[0]; only the masks differ: from the label map, from the mask head,
or from both. Reports COCO's mask AP (also at IoU .5, .75 and .9), and F1 of the contours of detections with a score of
at least --score at 1 and 5 pixels. Prints a table, and as its last line one JSON object. See docs/heads.md.
"""

import argparse
import json
import os

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from pycocotools import mask as coco_mask
from tabulate import tabulate
from tqdm import tqdm

from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.evaluation import ContourF1Evaluator
from dvis_d2.modeling.heads.final_masks import SOURCES
from dvis_d2.tuning import CocoScorer, StoredPredictions, current_thresholds, predict_images
from dvis_d2.tuning.predictions import MASK_SOURCE
from dvis_d2.tuning.scoring import average_precision

IOUS = {"AP": None, "AP50": 0.5, "AP75": 0.75, "AP90": 0.9}
DISTANCES = (1, 5)  # px


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    parser.add_argument("--score", type=float, default=0.5, help="detections below it have no contour")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def evaluate_masks(cfg, model, *, score: float) -> list[dict]:
    """For each source {"source", "AP", "AP50", "AP75", "AP90", "F1@1", "F1@5"}, in 0..100, on all images of
    ``DATASETS.TEST[0]``. Class-agnostic heads are scored without classes, and have no contour F1, which is of classes.

    Memory: the network's output of one image, and run-length codes of all detections.
    """
    name, class_agnostic = cfg.DATASETS.TEST[0], cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC
    scorer, thresholds = CocoScorer(name, class_agnostic=class_agnostic), current_thresholds(cfg)
    contours = {}
    if not class_agnostic:
        options = {"thresholds": DISTANCES, "score_threshold": score}
        contours = {source: ContourF1Evaluator(name, **options) for source in SOURCES}
    detections, image_ids = {source: [] for source in SOURCES}, []
    for batch in tqdm(Trainer.build_test_loader(cfg, name)):
        predictions = StoredPredictions(model, predict_images(model, [batch]))
        (image,) = predictions.images
        image_ids.append(image.image_id)
        for source in SOURCES:
            (found,) = predictions.detections(thresholds | {MASK_SOURCE: source})
            detections[source].append(found)
            if contours:
                contours[source].process(batch, [{"instances": to_instances(found, image.output_size)}])
    rows = []
    for source in SOURCES:
        evaluator = scorer.evaluate(detections[source], image_ids)
        row = {"source": source} | {key: average_precision(evaluator, iou=iou) for key, iou in IOUS.items()}
        if contours:
            f1 = contours[source].evaluate()["contour"]
            row |= {f"F1@{distance}": f1[f"F1@{distance}"] for distance in DISTANCES}
        rows.append(row)
    return rows


def to_instances(detections: list[dict], size: tuple[int, int]) -> Instances:
    """One image's detections in COCO's results format as Detectron2's evaluators take them."""
    masks = [coco_mask.decode(detection["segmentation"]) for detection in detections]
    return Instances(
        size,
        pred_masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size)),
        scores=torch.tensor([detection["score"] for detection in detections]),
        pred_classes=torch.tensor([detection["category_id"] for detection in detections], dtype=torch.int64),
    )


def main():
    args = get_parser().parse_args()
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=True)
    weights = cfg.MODEL.WEIGHTS
    if not os.path.isfile(weights):
        raise SystemExit(f"MODEL.WEIGHTS is {weights!r}, not a file: append MODEL.WEIGHTS and a trained model's path")
    if not cfg.DATASETS.TEST:
        raise SystemExit("DATASETS.TEST is empty: append DATASETS.TEST and the data set to evaluate on")
    model = Trainer.build_model(cfg).eval()
    DetectionCheckpointer(model).load(weights)
    rows = evaluate_masks(cfg, model, score=args.score)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"))
    print(json.dumps({"dataset": cfg.DATASETS.TEST[0], "weights": weights, "score": args.score, "masks": rows}))


if __name__ == "__main__":
    main()
