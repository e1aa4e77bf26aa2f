#!/usr/bin/env python
"""Average recall of a finished model on classes that it has not seen, and on the others.

    python tools/evaluate_unseen.py --config-file output/mine/config.yaml MODEL.WEIGHTS output/mine/model_final.pth
    python tools/evaluate_unseen.py --config-file output/mine/config.yaml --unseen "traffic light" --unseen zebra \\
        MODEL.WEIGHTS output/mine/model_final.pth DATASETS.TEST "('coco_2017_val',)"

DVIS, or a model of Detectron2, on DATASETS.TEST[0], or on --json. Predicted classes are not read. A Mask R-CNN whose
mask head needs no class has a second row, of its RPN's boxes with their masks. Prints a table, and as its last line one
JSON object. docs/unseen.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import math

from comparison.recall_table import format_recall
from comparison.rpn_masks import RPNMasks, has_rpn_masks
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset

from dvis_d2.data import DatasetError, check_coco_json, register_coco_json
from dvis_d2.data.seen_classes import find_classes
from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.evaluation import UnseenEvaluator

JSON_NAME = "json_of_evaluate_unseen"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--json", metavar="FILE", help="own data in COCO's format instead, of whatever classes")
    parser.add_argument("--images", metavar="DIR", help="their images; default: beside the JSON")
    parser.add_argument(
        "--unseen",
        action="append",
        metavar="NAME",
        help="a class that training has not seen; may be given several times. Default: all that are not in "
        "DATASETS.SEEN_CLASSES",
    )
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def register_json(json_file: str, images: str | None) -> str:
    """Check a COCO JSON and register it, without the effects on a config that --val-json of other programs has: the
    model keeps the number of classes that it was trained with."""
    report = check_coco_json(json_file, images)
    report.raise_if_errors()
    register_coco_json(JSON_NAME, json_file, report.image_root)
    return JSON_NAME


def seen_classes(dataset_name: str, unseen: list[str]) -> list[str]:
    """All classes of a data set but some."""
    DatasetCatalog.get(dataset_name)  # reading its JSON brings the names
    names = MetadataCatalog.get(dataset_name).thing_classes
    left_out = find_classes(unseen, names, dataset_name=dataset_name, option="--unseen")
    if len(left_out) == len(names):
        raise DatasetError(f"--unseen names all classes of {dataset_name}: leave one out")
    return [name for k, name in enumerate(names) if k not in left_out]


def main() -> None:
    args = get_parser().parse_args()
    cfg = setup_cfg(args, inference=True)
    if not args.unseen and not cfg.DATASETS.SEEN_CLASSES:
        raise SystemExit(
            "the config has no DATASETS.SEEN_CLASSES: name the classes that are new to the model by --unseen"
        )
    name = register_json(args.json, args.images) if args.json else cfg.DATASETS.TEST[0]
    seen = seen_classes(name, args.unseen) if args.unseen else list(cfg.DATASETS.SEEN_CLASSES)
    evaluator = UnseenEvaluator(name, seen)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    models = {"detections": model}
    if has_rpn_masks(cfg):
        models["RPN + masks"] = RPNMasks(model)
    loader = Trainer.build_test_loader(cfg, name)
    recall = {title: inference_on_dataset(m, loader, evaluator)["recall"] for title, m in models.items()}
    print(format_recall({title: {k: f"{v:.1f}" for k, v in row.items()} for title, row in recall.items()}))
    figures = {title: {k: None if math.isnan(v) else v for k, v in row.items()} for title, row in recall.items()}
    print(json.dumps({"dataset": name, "weights": cfg.MODEL.WEIGHTS, "seen_classes": seen, "recall": figures}))


if __name__ == "__main__":
    main()
