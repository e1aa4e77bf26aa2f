"""COCO-format data: made of a registered data set, or completed where an exporter left fields out."""

import copy
import os
from collections.abc import Iterator
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from .annotations import encode_masks, polygon_points, read_annotations, to_mask
from .validation import DatasetError


def to_coco(dataset_name: str, image_root: str | os.PathLike | None = None, *, ignore_as_crowd: bool = False) -> dict:
    """COCO-format data of a registered data set whose metadata have `thing_classes`.

    Images, annotations and classes are numbered from 1 in the data set's order; an image's own id is kept as
    "original_id". Polygons stay polygons, other masks become compressed RLE. "file_name" is relative to `image_root`
    (None: the deepest folder that holds all images). `ignore_as_crowd` turns an image's ignored pixels (PASCAL's 255)
    into a crowd of every class in the image, as COCO has no region without a class; else they become background.

    DatasetError where an image is not below `image_root`; ValueError or FileNotFoundError, naming it, where an
    annotation or a label file cannot be used.
    """
    dicts = DatasetCatalog.get(dataset_name)
    if image_root is None:
        image_root = os.path.commonpath([os.path.dirname(os.path.abspath(entry["file_name"])) for entry in dicts])
    names = MetadataCatalog.get(dataset_name).thing_classes
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, entry in enumerate(dicts, start=1):
        path = os.path.relpath(os.path.abspath(entry["file_name"]), os.path.abspath(image_root))
        if path.startswith(os.pardir):
            advice = "give a folder that holds all images"
            raise DatasetError(f"image {entry['file_name']} is not below {image_root}; {advice}")
        image = {"height": entry["height"], "width": entry["width"], "original_id": entry["image_id"]}
        images.append({"id": image_id, "file_name": path.replace(os.sep, "/"), **image})
        for annotation in _annotations(entry, ignore_as_crowd):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    return {
        "info": {"description": dataset_name, "image_root": str(image_root)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }


def complete_coco(data: dict) -> dict:
    """A copy of COCO-format data in which missing fields of annotations are filled in: "iscrowd" is 0, "bbox" ([x, y,
    width, height]) and "area" (px) are the mask's, and new ids follow the greatest one. ValueError, naming the
    annotation, where the mask or the image for it is missing or broken."""
    data = copy.deepcopy(data)
    sizes = {image.get("id"): (image.get("height"), image.get("width")) for image in data["images"]}
    next_id = max((a["id"] for a in data["annotations"] if type(a.get("id")) is int), default=0) + 1
    for position, annotation in enumerate(data["annotations"]):
        if annotation.get("id") is None:
            annotation["id"] = next_id
            next_id += 1
        annotation.setdefault("iscrowd", 0)
        if "bbox" in annotation and "area" in annotation:
            continue
        where = f"annotation {annotation['id']} (entry {position})"
        try:
            fields = mask_fields(_to_rle(annotation["segmentation"], sizes[annotation["image_id"]], where))
        except Exception as error:  # whatever pycocotools makes of malformed input
            advice = "correct the errors of the report first"
            raise ValueError(f"{where}: its mask cannot be read ({error!r}); {advice}") from error
        annotation.setdefault("bbox", fields["bbox"])
        annotation.setdefault("area", fields["area"])
    return data


def mask_fields(rle: dict) -> dict[str, Any]:
    """COCO's "area", "bbox" and "segmentation" of a mask."""
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation}


def coco_fields(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """COCO's "area", "bbox" and "segmentation": polygons stay polygons, other masks become compressed RLE."""
    fields = mask_fields(_to_rle(segmentation, size, where))
    return fields | ({"segmentation": segmentation} if isinstance(segmentation, list) else {})


def _annotations(entry: dict[str, Any], ignore_as_crowd: bool) -> Iterator[dict]:
    """Those of one image, without ids."""
    size = entry["height"], entry["width"]
    annotations, ignored = read_annotations(entry)
    if ignore_as_crowd and ignored is not None:
        classes = sorted({a["category_id"] for a in annotations})
        annotations = annotations + [{"category_id": k, "segmentation": ignored, "iscrowd": 1} for k in classes]
    for index, annotation in enumerate(annotations):
        segmentation, crowd = annotation.get("segmentation"), int(annotation.get("iscrowd", 0))
        fields = coco_fields(segmentation, size, f"{entry['file_name']}, annotation {index}")
        yield {"category_id": annotation["category_id"] + 1, "iscrowd": crowd, **fields}


def _to_rle(segmentation: Any, size: tuple[int, int], where: str) -> dict:
    if isinstance(segmentation, list):  # without drawing them
        return mask_util.merge(mask_util.frPyObjects([p.ravel() for p in polygon_points(segmentation, where)], *size))
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return segmentation
    return encode_masks(to_mask(segmentation, size, where)[None])[0]
