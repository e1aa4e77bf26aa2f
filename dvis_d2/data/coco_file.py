"""COCO-format files, as they are read for the check, training and evaluation, and written."""

import json
import os
from collections.abc import Iterable
from typing import Any

from pycocotools.coco import COCO

from ..safe_io import read_json, replacing
from .polygons import plain_polygons
from .rle import checked_runs

LARGE_ID = 2**53  # COCO's evaluation keeps ids as float64


class CheckedCOCO(COCO):
    """pycocotools' COCO of a file, with nothing in it that would hang or crash its functions.

    Pieces of less than three points are left out and far ones cut off; annotations are numbered from 1, and so are
    images and categories if an id is beyond :data:`LARGE_ID`. ValueError, naming the annotation, for a broken mask.
    """

    def __init__(self, annotation_file: str | os.PathLike | None = None):
        super().__init__()
        if annotation_file is None:
            return
        self.dataset = dataset = read_json(annotation_file)
        annotations = dataset.get("annotations", ())
        sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
        for number, annotation in enumerate(annotations, start=1):
            where = f"{annotation_file}, annotation {annotation.get('id')}"
            segmentation, size = annotation.get("segmentation"), sizes.get(annotation["image_id"])
            if isinstance(segmentation, dict):
                checked_runs(segmentation, where)
            elif segmentation and size:
                annotation["segmentation"] = plain_polygons(segmentation, *size, where)
            annotation["id"] = number
        for key, reference in ("images", "image_id"), ("categories", "category_id"):
            numbers = small_ids(entry["id"] for entry in dataset.get(key, ()))
            for entry in dataset.get(key, ()):
                entry["id"] = numbers[entry["id"]]
            for annotation in annotations:
                annotation[reference] = numbers.get(annotation[reference], annotation[reference])
        self.createIndex()


def small_ids(ids: Iterable[Any]) -> dict[Any, Any]:
    """{id: itself}, or, if one is beyond :data:`LARGE_ID`, {id: 1, 2, ... in their order}."""
    ids = list(ids)
    large = any(isinstance(id_, int) and abs(id_) > LARGE_ID for id_ in ids)
    return {id_: number for number, id_ in enumerate(sorted(ids), start=1)} if large else {id_: id_ for id_ in ids}


def write_new_json(path: str, data: Any) -> None:
    """Write all of a file or nothing. FileExistsError if there is one."""
    ensure_new(path)
    with replacing(path) as file:
        file.write(json.dumps(data).encode())


def ensure_new(path: str) -> None:
    """FileExistsError if there is such a file."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten: give another name, or remove it first")
