"""Training without some of a data set's classes (the paper's supplement, section 5), and all others as one.

Objects of classes that are not seen become void in training: neither object nor background.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.data import DatasetError
from dvis_d2.data.builtin import ShapesSplit, register_shapes
from dvis_d2.engine import setup_cfg

SEEN_SHAPES = ("square", "triangle", "ring")
CLASS_NAME = "object"
logger = logging.getLogger(__name__)

register_shapes(
    os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")),
    {"shapes_seen_train": ShapesSplit("shapes", 4000, 401, SEEN_SHAPES)},
)


def add_unseen_config(cfg: CfgNode) -> None:
    # names of the classes to train on, as one class; [] = all, told apart
    cfg.DATASETS.SEEN_CLASS_NAMES = []


def setup_unseen_cfg(args: argparse.Namespace, *, inference: bool = False) -> CfgNode:
    """:func:`dvis_d2.engine.setup_cfg` for configs that may have `DATASETS.SEEN_CLASS_NAMES`.

    Where it names some the model has one class, whatever the data have; otherwise the key is not in the config, which
    every program can then read.
    """
    cfg = setup_cfg(args, inference=inference, extra=(add_unseen_config,))
    cfg.defrost()
    if cfg.DATASETS.SEEN_CLASS_NAMES:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    else:
        del cfg.DATASETS["SEEN_CLASS_NAMES"]
    cfg.freeze()
    return cfg


def seen_classes(cfg: CfgNode) -> list[str]:
    """Names of the classes that training sees; [] for all."""
    return cfg.DATASETS.get("SEEN_CLASS_NAMES", [])


def without_unseen_classes(cfg: CfgNode) -> CfgNode:
    """`cfg` with `DATASETS.TRAIN` replaced by data sets of its seen classes as one class, which are registered here;
    as it is where it names none. They are read, and a class that does not exist is found, when the loader is built."""
    seen = seen_classes(cfg)
    if not seen:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = tuple(_register_seen(name, seen) for name in cfg.DATASETS.TRAIN)
    cfg.freeze()
    return cfg


def _register_seen(name: str, seen: Sequence[str]) -> str:
    def load() -> list[dict]:
        dicts = DatasetCatalog.get(name)  # reading its JSON brings the names
        return keep_seen_classes(dicts, MetadataCatalog.get(name).thing_classes, seen, dataset_name=name)

    own_name = f"{name}_of_{'_'.join(seen)}"
    DatasetCatalog.pop(own_name, None)
    DatasetCatalog.register(own_name, load)
    MetadataCatalog.get(own_name).set(thing_classes=[CLASS_NAME])
    return own_name


def keep_seen_classes(
    dicts: Sequence[dict], class_names: Sequence[str], seen: Sequence[str], *, dataset_name: str
) -> list[dict]:
    """Make one class, 0, of the seen ones and crowds of all other objects, and leave out images without an annotation
    of a seen class.

    A crowd is neither object nor background. Detectron2's own models know no such region and take it for background.

    Args:
        dicts: of one data set, in Detectron2's format; left as they are.
        class_names: of the data set, by "category_id".
        seen: names of the classes to train on.
        dataset_name: for messages.

    Raises:
        DatasetError: a class does not exist, or the classes are in label files.
    """
    seen_ids = find_classes(seen, class_names, dataset_name=dataset_name)
    kept, num_void = [], 0
    for entry in dicts:
        if "instance_label_file" in entry:
            raise DatasetError(
                f"{dataset_name} has its classes in label files, which DATASETS.SEEN_CLASS_NAMES cannot choose from: "
                "make a COCO file of it with `dvis convert`, or set the key to []"
            )
        is_seen = [annotation["category_id"] in seen_ids for annotation in entry.get("annotations", ())]
        if not any(is_seen):
            continue
        annotations = [
            {**annotation, "category_id": 0, "iscrowd": annotation.get("iscrowd", 0) if s else 1}
            for annotation, s in zip(entry["annotations"], is_seen, strict=True)
        ]
        kept.append({**entry, "annotations": annotations})
        num_void += is_seen.count(False)
    logger.info(
        "DATASETS.SEEN_CLASS_NAMES: of %d images of %s, %d without an annotation of %s are left out; in the others, "
        "void annotations of other classes: %d",
        len(dicts),
        dataset_name,
        len(dicts) - len(kept),
        ", ".join(seen),
        num_void,
    )
    return kept


def find_classes(
    wanted: Iterable[str], class_names: Sequence[str], *, dataset_name: str, option: str = "DATASETS.SEEN_CLASS_NAMES"
) -> set[int]:
    """Positions in `class_names` of the classes that are `wanted`, which `option` names.

    Raises:
        DatasetError: a wanted class does not exist; the message lists those that do.
    """
    wanted = set(wanted)
    unknown = sorted(wanted - set(class_names))
    if unknown:
        raise DatasetError(
            f"{option} names {', '.join(unknown)}, but the classes of {dataset_name} are {', '.join(class_names)}; "
            "give some of these"
        )
    return {k for k, name in enumerate(class_names) if name in wanted}
