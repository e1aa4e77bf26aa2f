#!/usr/bin/env python
"""AP of one trained network for every value of a threshold; the network runs once.

    python -m experiments.sweep --alpha --plot alpha.png --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth
    python -m experiments.sweep --nms --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth

--alpha: the weight of the predicted IoU in the score, 0 to 1 (the paper's Fig. 5); --nms: each kind of suppression.
Prints a table, and as its last line one JSON object; stores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure

from dvis_d2.engine import setup_cfg
from dvis_d2.evaluation.coco_ap import average_precision
from dvis_d2.modeling.detections import NMS_KINDS
from dvis_d2.modeling.meta_arch import DVIS
from dvis_d2.tuning import CocoScorer, StoredPredictions, current_thresholds, stored_images

from .program import config_parser, load_trained_model
from .tables import markdown_table

ALPHAS = [round(0.1 * step, 1) for step in range(11)]
IOUS = {"AP": None, "AP50": 0.5, "AP70": 0.7, "AP80": 0.8, "AP90": 0.9}  # of the paper's Fig. 5


def sweep(cfg: CfgNode, model: DVIS, key: str, values: Sequence[object], *, num_images: int) -> list[dict]:
    """For each value of a tunable key its name in lower case with the value, "AP", "AP50", "AP70", "AP80", "AP90" in
    0..100, and "detections", an image."""
    predictions = StoredPredictions(model, stored_images(cfg, model, num_images=num_images))
    scorer = CocoScorer(cfg.DATASETS.TEST[0])
    thresholds, image_ids = current_thresholds(cfg), [image.image_id for image in predictions.images]
    rows = []
    for value in values:
        detections = predictions.detections(thresholds | {key: value})
        evaluator = scorer.evaluate(detections, image_ids)
        ap = {name: average_precision(evaluator, iou=iou) for name, iou in IOUS.items()}
        name = key.split(".")[-1].lower()
        rows.append({name: value, **ap, "detections": sum(map(len, detections)) / len(image_ids)})
    return rows


def plot(rows: list[dict], path: str) -> None:
    """The table of the sweep over alpha as curves."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="alpha (weight of the predicted IoU)", ylabel="segm AP")
    for name in IOUS:
        axes.plot([row["alpha"] for row in rows], [row[name] for row in rows], marker="o", label=name)
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--alpha", action="store_true", help="0, 0.1, ..., 1")
    which.add_argument("--nms", action="store_true", help=", ".join(NMS_KINDS))
    parser.add_argument("--plot", metavar="FILE", help="with --alpha: draw the table too")
    parser.add_argument("--num-images", type=int, default=400, help="at most so many, evenly chosen")
    args = parser.parse_args(argv)
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=True)
    if args.alpha and cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC:
        raise SystemExit("--alpha: class-agnostic heads have no class probability to weigh the IoU against")
    name, values = ("ALPHA", ALPHAS) if args.alpha else ("NMS", NMS_KINDS)
    with torch.no_grad():
        rows = sweep(cfg, load_trained_model(cfg), f"MODEL.DVIS_ROI_HEADS.{name}", values, num_images=args.num_images)
    (name, *figures) = rows[0]
    print(markdown_table([[row[name], *(f"{row[key]:.2f}" for key in figures)] for row in rows], [name, *figures]))
    if args.plot:
        plot(rows, args.plot)
    print(json.dumps({name: rows}))


if __name__ == "__main__":
    main()
