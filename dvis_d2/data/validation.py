"""Check a COCO-format file before anything expensive starts.

Masks are not decoded, and image files are opened for their headers alone, so that COCO's 860,000 annotations
take seconds. Boxes and polygons are in px, (x, y); the picture reaches from (0, 0) to (width, height).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from .image_check import check_image_files, find_image_root
from .report import Report

FILL = "run tools/check_dataset.py with --complete, which writes a copy with them filled in"
ID_ADVICE = "give every entry its own integer id"
OUTSIDE_TOLERANCE = 1.0  # px that a polygon may reach beyond the picture; annotation tools round


def check_coco_json(
    json_file: str | os.PathLike, image_root: str | os.PathLike | None = None, *, max_headers: int = 5000
) -> Report:
    """Check annotations in COCO's format, and that the images are there.

    Args:
        json_file: the annotations.
        image_root: the folder that the file names are relative to. None: the JSON's own folder, or its
            sub-folder "images" if the first image is found there only.
        max_headers: of so many images, evenly spread, the size is compared with the file's.

    Returns:
        the report; nothing is raised for what is in the file.
    """
    report = Report(str(json_file))
    data = _read(json_file, report)
    if report.errors:
        return report
    report.title = (
        f"{json_file}: {len(data['images'])} images, {len(data['annotations'])} annotations, "
        f"{len(data['categories'])} categories"
    )
    _check_categories(data, report)
    images = _check_images(data["images"], report)
    _check_annotations(data, images, report)
    found = list(images.values())
    root = find_image_root(Path(json_file), found) if image_root is None else Path(image_root)
    report.image_root = str(root)
    check_image_files(found, root, report, max_headers=max_headers)
    return report


def _read(json_file: str | os.PathLike, report: Report) -> dict[str, Any]:
    """The parsed file. Says so in the report if it is not a JSON object with COCO's three lists of
    objects."""
    advice = 'give a file in COCO\'s format: {"images": [...], "annotations": [...], "categories": [...]}'
    try:
        with open(json_file, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        report.errors.add("the annotation file cannot be read", str(error), "correct its path")
        return {}
    except ValueError as error:  # also wrong encodings
        report.errors.add("the annotation file is not JSON", str(error), advice)
        return {}
    if not isinstance(data, dict):
        report.errors.add("the file is JSON but not COCO", f"it is a {type(data).__name__}, not an object", advice)
        return {}
    for key in ("images", "annotations", "categories"):
        entries = data.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            report.errors.add("the file is JSON but not COCO", f'"{key}" is no list of objects', advice)
        elif not entries:
            report.errors.add("an empty list", f'"{key}"', "there is nothing to learn from; export the data again")
    return data


def _check_ids(entries: list[dict], kind: str, report: Report) -> None:
    """Ids are integers and unique."""
    ids = [entry.get("id") for entry in entries]
    for position, value in enumerate(ids):
        if type(value) is not int:
            advice = FILL if kind == "annotation" and value is None else ID_ADVICE
            report.errors.add(f"{kind} ids that are no integers", f"entry {position} has id {value!r}", advice)
    if len(set(map(str, ids))) < len(ids):
        for value, count in Counter(map(str, ids)).items():
            if count > 1 and value != "None":
                report.errors.add(f"{kind} ids that occur twice", f"id {value} occurs {count} times", ID_ADVICE)


def _check_categories(data: dict, report: Report) -> None:
    categories = data["categories"]
    _check_ids(categories, "category", report)
    for category in categories:
        if not isinstance(category.get("name"), str):
            report.errors.add("categories without a name", f"category {category.get('id')}", 'add its "name"')
    named = [(c["id"], c["name"]) for c in categories if type(c.get("id")) is int and isinstance(c.get("name"), str)]
    report.categories = sorted(named)
    for name, count in Counter(name for _, name in named).items():
        if count > 1:
            report.warnings.add("category names that occur twice", f'"{name}"', "give them different names")
    used = {a.get("category_id") for a in data["annotations"] if isinstance(a.get("category_id"), int)}
    for category_id, name in report.categories:
        if category_id not in used:
            advice = "it is never learnt and its AP is undefined (nan); remove it if that is not intended"
            report.warnings.add("categories without annotations", f'category {category_id} "{name}"', advice)


def _check_images(images: list[dict], report: Report) -> dict[int, dict]:
    """The usable images by id."""
    _check_ids(images, "image", report)
    usable = {}
    for image in images:
        size = image.get("height"), image.get("width")
        if not all(type(s) is int and s > 0 for s in size):
            report.errors.add(
                "images without a size", _name(image), 'add "height" and "width" in px, as positive integers'
            )
        elif not isinstance(image.get("file_name"), str):
            report.errors.add("images without a file name", _name(image), 'add its "file_name"')
        elif type(image.get("id")) is int:
            usable[image["id"]] = image
    for file_name, count in Counter(image["file_name"] for image in usable.values()).items():
        if count > 1:
            report.warnings.add(
                "images that are listed more than once",
                file_name,
                "list each once, with all of its annotations",
            )
    return usable


def _check_annotations(data: dict, images: dict[int, dict], report: Report) -> None:
    annotations = data["annotations"]
    _check_ids(annotations, "annotation", report)
    image_ids = {image.get("id") for image in data["images"] if isinstance(image.get("id"), int)}
    category_ids = {c.get("id") for c in data["categories"] if isinstance(c.get("id"), int)}
    with_objects = set()
    for annotation in annotations:
        where = f"annotation {annotation.get('id')}"
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image_id, int) or image_id not in image_ids:
            report.errors.add(
                "annotations of an image that does not exist",
                f"{where} has image_id {image_id!r}",
                "add the image or remove the annotation",
            )
        if not isinstance(category_id, int) or category_id not in category_ids:
            report.errors.add(
                "annotations of a category that does not exist",
                f"{where} has category_id {category_id!r}",
                'add it to "categories" or correct the id',
            )
        with_objects.add(image_id if isinstance(image_id, int) else None)
        image = images.get(image_id) if isinstance(image_id, int) else None
        _check_fields(annotation, where, report)
        if image is not None:
            _check_segmentation(annotation, image, f"{where} ({image['file_name']})", report)
    for image_id, image in images.items():
        if image_id not in with_objects:
            report.warnings.add(
                "images without annotations",
                _name(image),
                "fine if nothing is on them; training leaves them out unless "
                "DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
            )


def _check_fields(annotation: dict, where: str, report: Report) -> None:
    missing = [key for key in ("bbox", "area", "iscrowd") if key not in annotation]
    if missing:  # pycocotools cannot evaluate without them, Detectron2 cannot load without a box
        report.errors.add("annotations without bbox, area or iscrowd", f"{where} has no {', '.join(missing)}", FILL)
    bbox = annotation.get("bbox", (0, 0, 1, 1))
    if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        report.errors.add("boxes that are not four numbers", where, "write [x, y, width, height] in px")
    elif bbox[2] <= 0 or bbox[3] <= 0:
        report.warnings.add(
            "boxes without extent",
            f"{where}: {list(bbox)}",
            "correct or remove them; only the mask is learnt from",
        )
    area = annotation.get("area", 1)
    if not _is_number(area):
        report.errors.add("areas that are no number", f"{where}: {area!r}", "give the mask's area in px")
    elif area <= 0:
        report.warnings.add("areas of 0 or less", where, "objects without area are not learnt; remove or redraw them")
    if annotation.get("iscrowd", 0) not in (0, 1):
        report.errors.add("iscrowd that is neither 0 nor 1", where, "0: one object; 1: a region to be ignored")
    if annotation.get("ignore", 0):
        report.errors.add('"ignore" flags', where, 'Detectron2 refuses them; use "iscrowd": 1 for ignored regions')
    if annotation.get("id") == 0:
        report.warnings.add(
            "an annotation with id 0", where, "pycocotools counts whoever finds it as wrong; number from 1"
        )


def _check_segmentation(annotation: dict, image: dict, where: str, report: Report) -> None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        report.errors.add("annotations without a mask", where, "DVIS learns from masks: add polygons or an RLE")
    elif isinstance(segmentation, dict):
        _check_rle(segmentation, image, where, report)
    elif isinstance(segmentation, list):
        _check_polygons(segmentation, image, where, report)
        if annotation.get("iscrowd", 0) == 1:
            report.warnings.add("crowds drawn as polygons", where, "that works; COCO itself uses RLE for crowds")
    else:
        report.errors.add("masks of unknown kind", where, "a mask is a list of polygons or an RLE")


def _check_rle(rle: dict, image: dict, where: str, report: Report) -> None:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [image["height"], image["width"]]:
        report.errors.add(
            "RLE masks of another size than the image",
            f"{where}: mask {size}, image {[image['height'], image['width']]}",
            "the size of an RLE is [height, width] of the image; write the masks again",
        )
    elif isinstance(counts, list):
        if not all(type(c) is int and c >= 0 for c in counts) or sum(counts) != size[0] * size[1]:
            report.errors.add("broken RLE masks", where, "the counts must add up to height x width")
        elif sum(counts[1::2]) == 0:
            report.warnings.add("empty masks", where, "they are not learnt; remove or redraw them")
    elif not isinstance(counts, str):
        report.errors.add("broken RLE masks", where, "counts are a string or a list of integers")
    elif mask_util.area({"size": size, "counts": counts}) == 0:
        report.warnings.add("empty masks", where, "they are not learnt; remove or redraw them")


def _check_polygons(polygons: list, image: dict, where: str, report: Report) -> None:
    extent = False
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            report.errors.add(
                "malformed polygons",
                where,
                "a polygon is a flat list x, y, x, y, ... of at least three points",
            )
            return
        try:
            x0, x1 = min(polygon[0::2]), max(polygon[0::2])
            y0, y1 = min(polygon[1::2]), max(polygon[1::2])
            finite = math.isfinite(sum(polygon))
        except TypeError:
            finite = False
        if not finite:
            report.errors.add("polygons with values that are no finite numbers", where, "write numbers, in px")
            return
        extent = extent or (x1 > x0 and y1 > y0)
        slack = OUTSIDE_TOLERANCE
        if x0 < -slack or y0 < -slack or x1 > image["width"] + slack or y1 > image["height"] + slack:
            report.warnings.add(
                "masks that reach outside of the image",
                f"{where}: x {x0:g}..{x1:g}, y {y0:g}..{y1:g}, image {image['width']} x {image['height']}",
                "they are cut off; if there are many, the annotations belong to images of another size",
            )
            return
    if not extent:
        report.warnings.add("empty masks", where, "they are not learnt; remove or redraw them")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(image: dict) -> str:
    return f"image {image.get('id')} ({image.get('file_name')})"
