"""Training without some of a data set's classes (the paper's supplement, section 5): their objects become void."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from .report import DatasetError

logger = logging.getLogger(__name__)


def find_classes(
    wanted: Iterable[str], class_names: Sequence[str], *, dataset_name: str, option: str = "DATASETS.SEEN_CLASSES"
) -> set[int]:
    """Positions in `class_names` of the classes that are `wanted`, which `option` names.

    Raises:
        DatasetError: a wanted class does not exist; the message lists those that do.
    """
    unknown = sorted(set(wanted) - set(class_names))
    if unknown:
        raise DatasetError(
            f"{option} names {', '.join(unknown)}, but the classes of {dataset_name} are {', '.join(class_names)}; "
            "give some of these"
        )
    return {k for k, name in enumerate(class_names) if name in set(wanted)}


def keep_seen_classes(
    dicts: Sequence[dict], class_names: Sequence[str], seen: Sequence[str], *, dataset_name: str
) -> list[dict]:
    """Turn the objects of other classes into crowds, and leave out images without an annotation of a seen class.

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
                f"{dataset_name} has its classes in label files, which DATASETS.SEEN_CLASSES cannot choose from: make "
                "a COCO file of it with tools/convert_to_coco.py, or set the key to []"
            )
        annotations = [
            annotation if annotation["category_id"] in seen_ids else {**annotation, "iscrowd": 1}
            for annotation in entry.get("annotations", ())
        ]
        num_seen = sum(annotation["category_id"] in seen_ids for annotation in annotations)
        if num_seen:
            kept.append({**entry, "annotations": annotations})
            num_void += len(annotations) - num_seen
    logger.info(
        "DATASETS.SEEN_CLASSES: of %d images of %s, %d without an annotation of %s are left out; in the others, "
        "void annotations of other classes: %d",
        len(dicts),
        dataset_name,
        len(dicts) - len(kept),
        ", ".join(seen),
        num_void,
    )
    return kept
