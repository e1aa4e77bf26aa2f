"""Anyone's COCO-format JSON as a Detectron2 data set, without writing code."""

import functools
import logging
import os
from unittest import mock

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..safe_io import read_json
from .coco_file import CheckedCOCO, small_ids
from .dataset_errors import DatasetError
from .image_checks import leads_out
from .validation import check_coco_json

TRAIN_NAME, VAL_NAME = "custom_train", "custom_val"
logger = logging.getLogger(__name__)


def register_coco_json(
    name: str, json_file: str, image_root: str, categories: list[tuple[int, str]] | None = None
) -> list[str]:
    """Register (anew) a COCO-format data set with Detectron2. Category ids may have gaps; classes are numbered in the
    order of the ids. `categories`: the file's (id, name) pairs by id, None: to be read. Returns the class names."""
    if categories is None:
        categories = sorted((c["id"], c["name"]) for c in read_json(json_file)["categories"])
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    DatasetCatalog.register(name, functools.partial(_load, name, str(json_file), str(image_root)))
    names, ids = [category for _, category in categories], small_ids(id_ for id_, _ in categories)
    contiguous = {ids[id_]: k for k, (id_, _) in enumerate(categories)}
    metadata = MetadataCatalog.get(name).set(thing_classes=names, thing_dataset_id_to_contiguous_id=contiguous)
    metadata.set(json_file=str(json_file), image_root=str(image_root), evaluator_type="coco")
    return names


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    with mock.patch("pycocotools.coco.COCO", CheckedCOCO):  # Detectron2 has no argument for it
        dicts = load_coco_json(json_file, image_root, name)
    for entry in dicts:
        if leads_out(image_root, os.path.abspath(entry["file_name"])):
            raise DatasetError(f"{json_file}: {entry['file_name']} is not in the image folder {image_root}")
    return dicts


def register_from_config(cfg: CfgNode, *, train: bool = True) -> None:
    """Check and register the data named by `cfg.DATASETS.CUSTOM`, and set the (unfrozen) config up for them.

    Where a JSON is given, sets `DATASETS.TRAIN` and `DATASETS.TEST` to "custom_train" and "custom_val" (or to nothing,
    where only the other JSON is given), `MODEL.ROI_HEADS.NUM_CLASSES`, and `CUSTOM.CLASS_NAMES`. Image folders may be
    "", see :func:`.validation.check_coco_json`. Without `train` the training data are left alone, and validation data
    that are not there are no data. DatasetError where a file cannot be used (with the whole report), or its classes
    differ from the other file's or from `CLASS_NAMES`.
    """
    custom = cfg.DATASETS.CUSTOM
    files = {TRAIN_NAME: (custom.TRAIN_JSON, custom.TRAIN_IMAGES), VAL_NAME: (custom.VAL_JSON, custom.VAL_IMAGES)}
    if not any(json_file for json_file, _ in files.values()):
        return
    class_names = list(custom.CLASS_NAMES)
    categories: dict[str, list[tuple[int, str]]] = {}
    for name, (json_file, images) in files.items():
        if not json_file or not (train or (name == VAL_NAME and os.path.exists(json_file))):
            continue
        report = check_coco_json(json_file, images or None)
        report.raise_if_errors()
        logger.log(logging.WARNING if report.warnings else logging.INFO, "%s", report)
        categories[name] = report.categories
        names = register_coco_json(name, json_file, report.image_root, report.categories)
        class_names = class_names or names
        if names != class_names:
            advice = "give data of these classes, or set DATASETS.CUSTOM.CLASS_NAMES to [] to train for others"
            raise DatasetError(f"the classes of {json_file} are {names}, but the config is for {class_names}; {advice}")
    if len(categories) == 2 and categories[TRAIN_NAME] != categories[VAL_NAME]:
        found = f"differ: {categories[TRAIN_NAME]} and {categories[VAL_NAME]}; write the same list into both"
        raise DatasetError(f"the categories (ids and names) of the training and the validation file {found}")
    custom.CLASS_NAMES = class_names
    cfg.DATASETS.TRAIN = (TRAIN_NAME,) if TRAIN_NAME in categories else ()
    cfg.DATASETS.TEST = (VAL_NAME,) if VAL_NAME in categories else ()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(class_names) or cfg.MODEL.ROI_HEADS.NUM_CLASSES
