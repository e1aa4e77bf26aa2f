#!/usr/bin/env python
"""The two sources of final masks, of the same detections of one trained network.

    python -m experiments.evaluate_masks --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth

The network and the heads run once over DATASETS.TEST[0]; the masks differ, from the label map or from the mask head,
and with the latter the scores, which know how sure it is. Reports COCO's mask AP (also at IoU .5, .75 and .9), and F1
of the contours of detections with a score of at least --score at 1 and 5 pixels. Prints a table, and as its last line
one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from pycocotools import mask as coco_mask
from tqdm import tqdm

from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.evaluation import ContourF1Evaluator
from dvis_d2.evaluation.coco_ap import average_precision
from dvis_d2.modeling.meta_arch import DVIS
from dvis_d2.tuning import CocoScorer, StoredPredictions, current_thresholds, predict_images

from .program import config_parser, load_trained_model
from .tables import markdown_table

SOURCES = ("label_map", "head")
IOUS = {"AP": None, "AP50": 0.5, "AP75": 0.75, "AP90": 0.9}
DISTANCES = (1, 5)  # px


def evaluate_masks(cfg: CfgNode, model: DVIS, *, score: float) -> list[dict]:
    """For each source {"source", "AP", "AP50", "AP75", "AP90", "F1@1", "F1@5"}, in 0..100, on all images of
    ``DATASETS.TEST[0]``.

    Memory: the network's output of one image, and run-length codes of all detections.
    """
    name = cfg.DATASETS.TEST[0]
    scorer, thresholds = CocoScorer(name), current_thresholds(cfg)
    contours = {s: ContourF1Evaluator(name, thresholds=DISTANCES, score_threshold=score) for s in SOURCES}
    detections: dict[str, list[list[dict]]] = {source: [] for source in SOURCES}
    image_ids = []
    for batch in tqdm(Trainer.build_test_loader(cfg, name)):
        predictions = StoredPredictions(model, predict_images(model, [batch]))
        (image,) = predictions.images
        image_ids.append(image.image_id)
        for source in SOURCES:
            (found,) = predictions.detections(thresholds | {"MODEL.DVIS_ROI_HEADS.MASK_SOURCE": source})
            detections[source].append(found)
            contours[source].process(batch, [{"instances": to_instances(found, image.output_size)}])
    rows = []
    for source in SOURCES:
        evaluator = scorer.evaluate(detections[source], image_ids)
        ap = {key: average_precision(evaluator, iou=iou) for key, iou in IOUS.items()}
        f1 = contours[source].evaluate()["contour"]
        rows.append({"source": source} | ap | {f"F1@{distance}": f1[f"F1@{distance}"] for distance in DISTANCES})
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--score", type=float, default=0.5, help="detections below it have no contour")
    args = parser.parse_args(argv)
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=True)
    rows = evaluate_masks(cfg, load_trained_model(cfg), score=args.score)
    (name, *figures) = rows[0]
    print(markdown_table([[row[name], *(f"{row[key]:.1f}" for key in figures)] for row in rows], [name, *figures]))
    about = {"dataset": cfg.DATASETS.TEST[0], "weights": cfg.MODEL.WEIGHTS, "score": args.score}
    print(json.dumps({**about, "masks": rows}))


if __name__ == "__main__":
    main()
