"""Check a COCO-format file before anything expensive starts.

Masks are not decoded, and image files are opened for their headers alone, so that COCO's 860,000 annotations take
seconds. Boxes and polygons are in px, (x, y); the picture reaches from (0, 0) to (width, height).
"""

import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from .image_io import probe_image

MAX_EXAMPLES = 3  # of each problem in a report
OUTSIDE_TOLERANCE = 1.0  # px that a polygon may reach beyond the picture; annotation tools round
COCO_ADVICE = 'give a file in COCO\'s format: {"images": [...], "annotations": [...], "categories": [...]}'
FILL_ADVICE = "run `dvis check` with --complete, which writes a copy with them filled in"
ID_ADVICE = "give every entry its own integer id"

# what is wrong: what to do
ERRORS = {
    "categories without a name": 'add its "name"',
    "images without a size": 'add "height" and "width" in px, as positive integers',
    "images without a file name": 'add its "file_name"',
    "annotations of an image that does not exist": "add the image or remove the annotation",
    "annotations of a category that does not exist": 'add it to "categories" or correct the id',
    "annotations without bbox, area or iscrowd": FILL_ADVICE,  # Detectron2 needs the box, pycocotools all three
    "boxes that are not four numbers": "write [x, y, width, height] in px",
    "areas that are no number": "give the mask's area in px",
    "iscrowd that is neither 0 nor 1": "0: one object; 1: a region to be ignored",
    '"ignore" flags': 'Detectron2 refuses them; use "iscrowd": 1 for ignored regions',
    "annotations without a mask": "DVIS learns from masks: add polygons or an RLE",
    "masks of unknown kind": "a mask is a list of polygons or an RLE",
    "RLE masks of another size than the image": "an RLE's size is [height, width] of the image; write the masks again",
    "broken RLE masks": "counts are a string, or a list of integers that add up to height x width",
    "malformed polygons": "a polygon is a flat list x, y, x, y, ... of at least three points",
    "polygons with values that are no finite numbers": "write numbers, in px",
    "image files that cannot be read": "copy them again",
    "images of another size than the annotations say": "use the annotated ones: not resized, turned as EXIF says",
}
WARNINGS = {
    "category names that occur twice": "give them different names",
    "categories without annotations": "they are never learned, their AP is undefined (nan); remove what is not needed",
    "images that are listed more than once": "list each once, with all of its annotations",
    "images without annotations": "fine if nothing is on them; DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves them out",
    "boxes without extent": "correct or remove them; only the mask is learned from",
    "areas of 0 or less": "objects without area are not learned; remove or redraw them",
    "an annotation with id 0": "pycocotools counts whoever finds it as wrong; number from 1",
    "crowds drawn as polygons": "that works; COCO itself uses RLE for crowds",
    "empty masks": "they are not learned; remove or redraw them",
    "masks that reach outside of the image": "they are cut off; many such masks belong to images of another size",
}
ADVICE = ERRORS | WARNINGS


class DatasetError(ValueError):
    """A data set cannot be used. The message says why and what to do."""


@dataclass
class Report:
    """`errors` make training or evaluation impossible, or silently wrong; with `warnings` it works. Both hold the cases
    of each kind of problem. `image_root` and `categories` are given as far as they could be read."""

    title: str
    image_root: str = ""
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    categories: list[tuple[int, str]] = field(default_factory=list)  # the file's own (id, name), ascending by id
    _advice: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, example: str, advice: str, *, is_error: bool = True) -> None:
        findings = self.errors if is_error else self.warnings
        findings.setdefault(what, []).append(example)
        self._advice.setdefault(what, advice)

    def raise_if_errors(self) -> None:
        """Raise :class:`DatasetError` with the whole report if there is an error."""
        if self.errors:
            raise DatasetError(str(self))

    def __str__(self) -> str:
        lines = [self.title]
        for label, findings in ("ERROR", self.errors), ("WARNING", self.warnings):
            for what, cases in findings.items():
                examples = "; ".join(cases[:MAX_EXAMPLES] + ["..."] * (len(cases) > MAX_EXAMPLES))
                lines += [f"  {label}: {what} ({len(cases)}): {examples}", f"      -> {self._advice[what]}"]
        if not self.errors:
            lines.append("  no errors" + ("" if self.warnings else ", no warnings"))
        return "\n".join(lines)


def check_coco_json(
    json_file: str | os.PathLike, image_root: str | os.PathLike | None = None, *, max_headers: int = 5000
) -> Report:
    """Check annotations in COCO's format, and that the images are there. Nothing is raised for what is in the file.

    `image_root` is what the file names are relative to; None: the JSON's own folder, or its sub-folder "images" if the
    first image is found there only. Of `max_headers` images, evenly spread, the size is compared with the file's.
    """
    report = Report(str(json_file))
    data = _read(json_file, report)
    if report.errors:
        return report
    images, annotations, categories = data["images"], data["annotations"], data["categories"]
    report.title = f"{json_file}: {len(images)} images, {len(annotations)} annotations, {len(categories)} categories"
    for kind, entries in ("category", categories), ("image", images), ("annotation", annotations):
        _check_ids(entries, kind, report)
    _check_categories(categories, _integers(annotations, "category_id"), report)
    usable = _usable_images(images, _integers(annotations, "image_id"), report)
    known = _integers(images, "id"), _integers(categories, "id")
    for annotation in annotations:
        _check_annotation(annotation, *known, usable, report)
    root = Path(json_file).parent if image_root is None else Path(image_root)
    if image_root is None and usable:  # "images" where only that holds the first image
        first = next(iter(usable.values()))["file_name"]
        if not (root / first).is_file() and (root / "images" / first).is_file():
            root = root / "images"
    report.image_root = str(root)
    _check_image_files(list(usable.values()), root, max_headers, report)
    return report


def _add(report: Report, where: str, found: dict[str, Any]) -> None:
    """Note each problem (a key of the tables above) whose value is true; a text is added to `where`."""
    for what, detail in found.items():
        if detail:
            example = f"{where} {detail}" if isinstance(detail, str) else where
            report.add(what, example, ADVICE[what], is_error=what in ERRORS)


def _read(json_file: str | os.PathLike, report: Report) -> Any:
    try:
        with open(json_file, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        return report.add("the annotation file cannot be read", str(error), "correct its path")
    except ValueError as error:  # also wrong encodings
        return report.add("the annotation file is not JSON", str(error), COCO_ADVICE)
    for key in ("images", "annotations", "categories"):
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            report.add("the file is JSON but not COCO", f'"{key}" is no list of objects', COCO_ADVICE)
        elif not entries:
            report.add("an empty list", f'"{key}"', "there is nothing to learn from; export the data again")
    return data


def _check_ids(entries: list[dict], kind: str, report: Report) -> None:
    for position, entry in enumerate(entries):
        if type(value := entry.get("id")) is not int:
            advice = FILL_ADVICE if kind == "annotation" and value is None else ID_ADVICE
            report.add(f"{kind} ids that are no integers", f"entry {position} has id {value!r}", advice)
    for text in _twice([str(entry["id"]) for entry in entries if entry.get("id") is not None]):
        report.add(f"{kind} ids that occur twice", f"id {text}", ID_ADVICE)


def _check_categories(categories: list[dict], used: set[int], report: Report) -> None:
    for category in categories:
        id_, name = category.get("id"), category.get("name")
        if not isinstance(name, str):
            _add(report, f"category {id_}", {"categories without a name": True})
        elif type(id_) is int:
            report.categories.append((id_, name))
            _add(report, f'category {id_} "{name}"', {"categories without annotations": id_ not in used})
    report.categories.sort()
    for name in _twice([name for _, name in report.categories]):
        _add(report, f'"{name}"', {"category names that occur twice": True})


def _usable_images(images: list[dict], used: set[int], report: Report) -> dict[Any, dict]:
    """Those with an id, a size and a file name, by id."""
    usable = {}
    for image in images:
        sized = all(type(side) is int and side > 0 for side in (image.get("height"), image.get("width")))
        named, id_ = isinstance(image.get("file_name"), str), image.get("id")
        found = {"images without a size": not sized, "images without a file name": not named}
        if sized and named and type(id_) is int:
            usable[id_] = image
            found["images without annotations"] = id_ not in used
        _add(report, _name(image), found)
    for file_name in _twice([image["file_name"] for image in usable.values()]):
        _add(report, file_name, {"images that are listed more than once": True})
    return usable


def _check_annotation(
    annotation: dict, image_ids: set[int], category_ids: set[int], usable: dict[Any, dict], report: Report
) -> None:
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    image_exists = isinstance(image_id, int) and image_id in image_ids
    category_exists = isinstance(category_id, int) and category_id in category_ids
    missing = [key for key in ("bbox", "area", "iscrowd") if key not in annotation]
    box, area, crowd = annotation.get("bbox", (0, 0, 1, 1)), annotation.get("area", 1), annotation.get("iscrowd", 0)
    is_box = isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))
    found = {
        "annotations of an image that does not exist": not image_exists and f"has image_id {image_id!r}",
        "annotations of a category that does not exist": not category_exists and f"has category_id {category_id!r}",
        "annotations without bbox, area or iscrowd": missing and f"has no {', '.join(missing)}",
        "boxes that are not four numbers": not is_box,
        "boxes without extent": is_box and min(box[2:]) <= 0 and f"has bbox {list(box)}",
        "areas that are no number": not _is_number(area) and f"has area {area!r}",
        "areas of 0 or less": _is_number(area) and area <= 0,
        "iscrowd that is neither 0 nor 1": crowd not in (0, 1),
        '"ignore" flags': bool(annotation.get("ignore", 0)),
        "an annotation with id 0": annotation.get("id") == 0,
    }
    where = f"annotation {annotation.get('id')}"
    _add(report, where, found)
    if image_exists and (image := usable.get(image_id)):
        segmentation = annotation.get("segmentation")
        masks = _mask_problem(segmentation, image["height"], image["width"])
        masks["crowds drawn as polygons"] = crowd == 1 and isinstance(segmentation, list) and bool(segmentation)
        _add(report, f"{where} ({image['file_name']})", masks)


def _mask_problem(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if not segmentation:
        return {"annotations without a mask": True}
    if isinstance(segmentation, list):
        return _polygon_problem(segmentation, height, width)
    if not isinstance(segmentation, dict):
        return {"masks of unknown kind": True}
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        return {"RLE masks of another size than the image": f"has size {size}, the image {[height, width]}"}
    if isinstance(counts, str):
        return {"empty masks": mask_util.area({"size": size, "counts": counts}) == 0}
    if isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts) and sum(counts) == height * width:
        return {"empty masks": sum(counts[1::2]) == 0}
    return {"broken RLE masks": True}


def _polygon_problem(polygons: list, height: int, width: int) -> dict[str, Any]:
    has_extent, slack = False, OUTSIDE_TOLERANCE
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return {"malformed polygons": True}
        try:
            x0, y0, x1, y1 = (f(polygon[axis::2]) for f in (min, max) for axis in (0, 1))
            total = float(sum(polygon))
        except TypeError:  # not numbers
            total = math.nan
        if not math.isfinite(total):
            return {"polygons with values that are no finite numbers": True}
        has_extent = has_extent or (x1 > x0 and y1 > y0)
        if min(x0, y0) < -slack or x1 > width + slack or y1 > height + slack:
            extent = f"spans x {x0:g}..{x1:g}, y {y0:g}..{y1:g}, image {width} x {height}"
            return {"masks that reach outside of the image": extent}
    return {"empty masks": not has_extent}


def _check_image_files(images: list[dict], root: Path, max_headers: int, report: Report) -> None:
    existing = []
    for image in images:
        if os.path.isfile(root / image["file_name"]):
            existing.append(image)
        else:
            what, advice = f"image files that are not in {root}", "correct the image folder, or the file names"
            report.add(what, _name(image), advice)
    for image in existing[:: max(1, -(-len(existing) // max_headers))]:
        path, size = root / image["file_name"], (image["width"], image["height"])
        try:
            if (found := probe_image(path)[:2]) != size:
                detail = f"is {found[0]} x {found[1]}, annotated as {size[0]} x {size[1]}"
                _add(report, path.name, {"images of another size than the annotations say": detail})
        except (OSError, ValueError) as error:
            _add(report, str(path), {"image files that cannot be read": f"({error})"})


def _twice(values: list[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _integers(entries: list[dict], key: str) -> set[int]:
    return {value for entry in entries if isinstance(value := entry.get(key), int)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(image: dict) -> str:
    return f"image {image.get('id')} ({image.get('file_name')})"
