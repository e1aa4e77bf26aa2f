"""Anyone's COCO-format JSON as a Detectron2 data set, without writing code."""

from __future__ import annotations

import json
import logging
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .report import DatasetError, Report
from .validation import check_coco_json

TRAIN_NAME = "custom_train"
VAL_NAME = "custom_val"
logger = logging.getLogger(__name__)


def register_coco_json(name: str, json_file: str, image_root: str) -> list[str]:
    """Register a COCO-format data set with Detectron2, with its class names in the metadata at once.

    Category ids may have gaps; classes are numbered in the order of the ids. A name that is registered
    already is registered anew.

    Returns:
        the class names, in the order of the class ids.
    """
    with open(json_file, encoding="utf-8") as file:
        categories = sorted((c["id"], c["name"]) for c in json.load(file)["categories"])
    return _register(name, json_file, image_root, categories)


def register_from_config(cfg: CfgNode) -> None:
    """Check and register the data named by `cfg.DATASETS.CUSTOM`, and set the config up for them.

    Reads `TRAIN_JSON`, `TRAIN_IMAGES`, `VAL_JSON`, `VAL_IMAGES` ("" = not given; relative to the working
    directory) and `CLASS_NAMES`. Where a JSON is given, sets `DATASETS.TRAIN` and `DATASETS.TEST` to
    "custom_train" and "custom_val" (or to nothing, where only the other JSON is given),
    `MODEL.ROI_HEADS.NUM_CLASSES` (1 with `DATASETS.CLASS_AGNOSTIC`), and `CLASS_NAMES`. The config must not be
    frozen. Without a JSON, does nothing.

    An image folder "" is the JSON's own folder, or its sub-folder "images" if the files are found there.

    A saved config names its classes in `CLASS_NAMES`, so a demo needs no data: a JSON that does not exist is
    then a warning.

    Raises:
        DatasetError: a file cannot be used (with the report of all that is wrong), or the classes of the
            training file, the validation file and `CLASS_NAMES` differ.
    """
    custom = cfg.DATASETS.CUSTOM
    given = {
        name: (json_file, images)
        for name, json_file, images in (
            (TRAIN_NAME, custom.TRAIN_JSON, custom.TRAIN_IMAGES),
            (VAL_NAME, custom.VAL_JSON, custom.VAL_IMAGES),
        )
        if json_file
    }
    if not given:
        return
    class_names = list(custom.CLASS_NAMES)
    categories: dict[str, list[tuple[int, str]]] = {}
    for name, (json_file, images) in given.items():
        if class_names and not os.path.exists(json_file):
            logger.warning("%s does not exist: its classes are those of the config, its images are not used", json_file)
            MetadataCatalog.pop(name, None)
            MetadataCatalog.get(name).thing_classes = class_names
            continue
        report = check_coco_json(json_file, images or None)
        report.raise_if_errors()
        _log(report)
        categories[name] = report.categories
        _register(name, json_file, report.image_root, report.categories)
    _check_same_categories(categories, class_names)
    if not class_names:
        class_names = [category for _, category in next(iter(categories.values()))]
    cfg.DATASETS.TRAIN = (TRAIN_NAME,) if TRAIN_NAME in given else ()
    cfg.DATASETS.TEST = (VAL_NAME,) if VAL_NAME in given else ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1 if cfg.DATASETS.CLASS_AGNOSTIC else len(class_names)
    custom.CLASS_NAMES = class_names


def _register(name: str, json_file: str, image_root: str, categories: list[tuple[int, str]]) -> list[str]:
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    register_coco_instances(name, {}, str(json_file), str(image_root))
    names = [category for _, category in categories]
    MetadataCatalog.get(name).set(
        thing_classes=names,
        thing_dataset_id_to_contiguous_id={id_: k for k, (id_, _) in enumerate(categories)},
    )
    return names


def _check_same_categories(categories: dict[str, list[tuple[int, str]]], class_names: list[str]) -> None:
    if len(categories) == 2 and categories[TRAIN_NAME] != categories[VAL_NAME]:
        raise DatasetError(
            "the categories (ids and names) of the training and the validation file differ: "
            f"{categories[TRAIN_NAME]} and {categories[VAL_NAME]}; write the same list into both"
        )
    for name, pairs in categories.items():
        if class_names and [category for _, category in pairs] != class_names:
            raise DatasetError(
                f"the classes of {name} are {[category for _, category in pairs]}, but the config was made "
                f"for {class_names} (DATASETS.CUSTOM.CLASS_NAMES); give data of these classes, or set that "
                "key to [] to train for others"
            )


def _log(report: Report) -> None:
    logger.log(logging.WARNING if report.warnings else logging.INFO, "%s", report)
