"""COCO-format data: made of a registered data set, or completed where an exporter left fields out."""

import os
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from .annotations import read_annotations, to_rle
from .dataset_errors import DatasetError
from .mask_checks import is_box, is_number

ID_KEYS = ("images", "annotations", "categories")


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
        size = entry["height"], entry["width"]
        image = {"height": size[0], "width": size[1], "original_id": entry["image_id"]}
        images.append({"id": image_id, "file_name": path.replace(os.sep, "/"), **image})
        objects, ignored = read_annotations(entry)
        if ignore_as_crowd and ignored is not None:
            classes = sorted({a["category_id"] for a in objects})
            objects = objects + [{"category_id": k, "segmentation": ignored, "iscrowd": 1} for k in classes]
        for index, own in enumerate(objects):
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": own["category_id"] + 1}
            fields = coco_fields(own.get("segmentation"), size, f"{entry['file_name']}, annotation {index}")
            annotations.append({**ids, "iscrowd": int(own.get("iscrowd", 0)), **fields})
    return {
        "info": {"description": dataset_name, "image_root": str(image_root)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }


def complete_coco(data: dict) -> dict:
    """A copy of COCO-format data with what is missing, null, 0 or no number in annotations filled in: "iscrowd" is 0,
    "bbox" ([x, y, width, height]) and "area" (px) are the mask's, and new ids, also for those that occur twice,
    follow the greatest one. Ids of all kinds, and sizes of images, that are strings or floats become the integers that
    they stand for; where one stands for none, all images or categories are numbered from 1.

    ValueError, naming the annotation, where the mask or the image for it is missing or broken.
    """
    data = {key: [dict(e) for e in value] if key in ID_KEYS else value for key, value in data.items()}
    annotations = data["annotations"]
    for image in data["images"]:
        image |= {key: _integer(image[key]) or image[key] for key in ("height", "width") if key in image}
    for key, reference in ("images", "image_id"), ("categories", "category_id"):
        ids = [entry.get("id") for entry in data[key]]
        numbers = [_integer(id_) for id_ in ids]
        if None in ids:
            continue  # nothing says which annotations are its own
        new = range(1, len(ids) + 1) if None in numbers else numbers
        known = dict(zip(map(_identity, ids), new, strict=True))
        for entry, number in zip(data[key], new, strict=True):
            entry["id"] = number
        for annotation in annotations:
            value = annotation.get(reference)  # an unknown one must not become another's new number
            annotation[reference] = known.get(_identity(value), str(value) if None in numbers else value)
    sizes = {image.get("id"): (image.get("height"), image.get("width")) for image in data["images"]}
    seen: set[int] = {0}
    next_id = max((_integer(a.get("id")) or 0 for a in annotations), default=0) + 1
    for position, annotation in enumerate(annotations):
        annotation["id"], crowd = _integer(annotation.get("id")), _integer(annotation.get("iscrowd") or 0)
        if annotation["id"] is None or annotation["id"] in seen:
            annotation["id"], next_id = next_id, next_id + 1
        seen.add(annotation["id"])
        annotation["iscrowd"] = annotation["iscrowd"] if crowd is None else crowd
        box, area = annotation.get("bbox"), annotation.get("area")
        sound = {"bbox": is_box(box) and min(box[2:]) > 0, "area": is_number(area) and area > 0}
        if not all(sound.values()):
            where = f"annotation {annotation['id']} (entry {position})"
            try:
                fields = mask_fields(to_rle(annotation["segmentation"], sizes[annotation["image_id"]], where))
            except Exception as error:  # whatever pycocotools makes of malformed input
                advice = "correct the errors of the report first"
                raise ValueError(f"{where}: its mask cannot be read ({error!r}); {advice}") from error
            annotation |= {key: fields[key] for key in sound if not sound[key]}
    return data


def _integer(value: Any) -> int | None:
    """The integer that an integer, a bool, a float or a string stands for."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20 else None
    return int(value) if is_number(value) and value == int(value) or isinstance(value, bool) else None


def _identity(value: Any) -> Any:
    """Equal for 7, "7" and 7.0."""
    return repr(value) if (number := _integer(value)) is None else number


def mask_fields(rle: dict) -> dict[str, Any]:
    """COCO's "area", "bbox" and "segmentation" of a mask."""
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"area": int(mask_util.area(rle)), "bbox": mask_util.toBbox(rle).tolist(), "segmentation": segmentation}


def coco_fields(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """COCO's "area", "bbox" and "segmentation": polygons stay polygons, other masks become compressed RLE."""
    fields = mask_fields(to_rle(segmentation, size, where))
    return fields | ({"segmentation": segmentation} if isinstance(segmentation, list) else {})
