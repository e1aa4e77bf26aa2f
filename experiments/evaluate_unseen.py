#!/usr/bin/env python
"""Average recall of a finished model on classes that it has not seen, and on the others.

    python -m experiments.evaluate_unseen --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth
    python -m experiments.evaluate_unseen --config-file output/mine/config.yaml --unseen "traffic light" \\
        --unseen zebra MODEL.WEIGHTS output/mine/model_final.pth DATASETS.TEST "('coco_2017_val',)"

DVIS, or a model of Detectron2, on DATASETS.TEST[0], or on --json. Predicted classes are not read. A Mask R-CNN whose
mask head needs no class has a second row, of its RPN's boxes with their masks. Prints a table, and as its last line one
JSON object. README.md explains the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset

from dvis_d2.data import DatasetError, check_coco_json, register_coco_json
from dvis_d2.engine import Trainer

from .comparison import backbone  # noqa: F401  (registers Mask R-CNN's)
from .comparison.rpn_masks import RPNMasks, has_rpn_masks
from .program import config_parser, load_trained_model
from .tables import markdown_table, without_nan
from .unseen import find_classes, seen_classes, setup_unseen_cfg
from .unseen_evaluator import UnseenEvaluator

JSON_NAME = "json_of_evaluate_unseen"


def register_json(json_file: str, images: str | None) -> str:
    """Check a COCO JSON and register it, without the effects on a config that --val-json of other programs has: the
    model keeps the number of classes that it was trained with."""
    report = check_coco_json(json_file, images)
    report.raise_if_errors()
    register_coco_json(JSON_NAME, json_file, report.image_root)
    return JSON_NAME


def all_classes_but(unseen: list[str], dataset_name: str) -> list[str]:
    DatasetCatalog.get(dataset_name)  # reading its JSON brings the names
    names = MetadataCatalog.get(dataset_name).thing_classes
    left_out = find_classes(unseen, names, dataset_name=dataset_name, option="--unseen")
    if len(left_out) == len(names):
        raise DatasetError(f"--unseen names all classes of {dataset_name}: leave one out")
    return [name for k, name in enumerate(names) if k not in left_out]


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--json", metavar="FILE", help="own data in COCO's format instead, of whatever classes")
    parser.add_argument("--images", metavar="DIR", help="their images; default: beside the JSON")
    parser.add_argument(
        "--unseen",
        action="append",
        metavar="NAME",
        help="a class that training has not seen; may be given several times. Default: all that are not in "
        "DATASETS.SEEN_CLASS_NAMES",
    )
    args = parser.parse_args(argv)
    cfg = setup_unseen_cfg(args, inference=True)
    if not args.unseen and not seen_classes(cfg):
        raise SystemExit(
            "the config has no DATASETS.SEEN_CLASS_NAMES: name the classes that are new to the model by --unseen"
        )
    name = register_json(args.json, args.images) if args.json else cfg.DATASETS.TEST[0]
    seen = all_classes_but(args.unseen, name) if args.unseen else seen_classes(cfg)
    evaluator = UnseenEvaluator(name, seen)
    model = load_trained_model(cfg)
    models = {"detections": model}
    if has_rpn_masks(cfg):
        models["RPN + masks"] = RPNMasks(model)
    loader = Trainer.build_test_loader(cfg, name)
    recall = {title: inference_on_dataset(m, loader, evaluator)["recall"] for title, m in models.items()}
    rows = [[title, *(f"{value:.1f}" for value in row.values())] for title, row in recall.items()]
    print(markdown_table(rows, ["", *(figure.replace("/", " ") for figure in recall["detections"])]))
    about = {"dataset": name, "weights": cfg.MODEL.WEIGHTS, "seen_classes": seen}
    print(json.dumps({**about, "recall": without_nan(recall)}))


if __name__ == "__main__":
    main()
