"""A registered data set with instance masks as COCO-format data, for tools that read nothing else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from .ground_truth import decode_rle
from .image_io import read_ignore_mask
from .label_files import read_instance_labels
from .report import DatasetError


def to_coco(dataset_name: str, image_root: str | os.PathLike | None = None, *, ignore_as_crowd: bool = False) -> dict:
    """COCO-format data of a data set of Detectron2.

    Images and annotations are numbered from 1 in the data set's order; an image's own id is kept as "original_id".
    Categories are the data set's classes, numbered from 1. Polygons stay polygons, other masks become compressed RLE.

    Args:
        dataset_name: a registered data set; its metadata have `thing_classes`.
        image_root: what "file_name" is relative to; None: the deepest folder that holds all images.
        ignore_as_crowd: turn an image's ignored pixels (PASCAL's 255) into a crowd ("iscrowd": 1) of every class that
            occurs in the image, because COCO has no region that is ignored for all classes. Otherwise they are lost,
            and become background.

    Raises:
        DatasetError: an image is not below `image_root`.
        ValueError, FileNotFoundError: an annotation or a label file cannot be used; the message names it.
    """
    dicts = DatasetCatalog.get(dataset_name)
    if image_root is None:
        image_root = os.path.commonpath([os.path.dirname(os.path.abspath(entry["file_name"])) for entry in dicts])
    names = MetadataCatalog.get(dataset_name).thing_classes
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, entry in enumerate(dicts, start=1):
        images.append(
            {
                "id": image_id,
                "original_id": entry["image_id"],
                "file_name": _relative(entry["file_name"], image_root),
                "height": entry["height"],
                "width": entry["width"],
            }
        )
        for annotation in _annotations(entry, ignore_as_crowd):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": {"description": dataset_name, "image_root": str(image_root)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }


def _annotations(entry: dict[str, Any], ignore_as_crowd: bool) -> list[dict]:
    """Those of one image, without ids."""
    if "instance_label_file" in entry:
        annotations, ignore_mask = read_instance_labels(entry)
    else:
        annotations, ignore_mask = entry.get("annotations", []), entry.get("ignore_mask")
    size, file_name = (entry["height"], entry["width"]), entry["file_name"]
    converted = [_convert(a, size, f"{file_name}, annotation {i}") for i, a in enumerate(annotations)]
    if ignore_as_crowd and ignore_mask is not None:
        void = read_ignore_mask(ignore_mask, *size, file_name)
        crowds = [
            {"category_id": category_id, "segmentation": void, "iscrowd": 1}
            for category_id in sorted({a["category_id"] for a in annotations})
        ]
        converted += [_convert(crowd, size, f"{file_name}, ignore_mask") for crowd in crowds]
    return converted


def _convert(annotation: dict[str, Any], size: tuple[int, int], where: str) -> dict:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    else:
        mask = decode_rle(segmentation, where) if isinstance(segmentation, dict) else segmentation
        if not isinstance(mask, np.ndarray) or mask.shape != size:
            raise ValueError(f"{where}: it has no mask of the image's size {size}; take the image out of the data set")
        rle = mask_util.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
        segmentation = {"size": list(size), "counts": rle["counts"].decode()}
    return {
        "category_id": annotation["category_id"] + 1,
        "segmentation": segmentation,
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": int(mask_util.area(rle)),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _relative(file_name: str, image_root: str | os.PathLike) -> str:
    path = os.path.relpath(os.path.abspath(file_name), os.path.abspath(image_root))
    if path.startswith(os.pardir):
        raise DatasetError(f"image {file_name} is not below {image_root}; give a folder that holds all images")
    return path.replace(os.sep, "/")
