"""Check a COCO-format file before anything expensive starts.

Masks are not drawn, and of image files only the header and the end are read, so that 10,000 images take seconds. Boxes
and polygons are in px, (x, y); the picture reaches from (0, 0) to (width, height).
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ..safe_io import read_json
from .dataset_errors import DatasetError
from .image_checks import check_image_files, find_root
from .mask_checks import DOUBTFUL, SERIOUS, SERIOUS_SHARE, MaskAudit, is_box, is_number
from .rle import MAX_PIXELS

MAX_EXAMPLES = 3  # of each problem in a report
COCO_ADVICE = 'give a file in COCO\'s format: {"images": [...], "annotations": [...], "categories": [...]}'
UNPACK_AGAIN = "unpack the archive again"
NO_IMAGE = "annotations of an image that does not exist"
COMPLETE = "run `dvis check` with --complete, which writes a copy with"
CROWD_SHARE = 0.1  # COCO has 1 %

# what is wrong: what to do
ERRORS = {
    "the annotation file cannot be read": "correct its path",
    "the annotation file is not JSON": COCO_ADVICE,
    "the file is JSON but not COCO": COCO_ADVICE,
    "an empty list": "there is nothing to learn from; export the data again",
    "ids that are no integers": f"{COMPLETE} integer ids",
    "ids that occur twice": "give every entry its own integer id",
    "categories without a name": 'add its "name"',
    "images without a size": 'add "height" and "width" in px, as positive integers',
    "images without a file name": 'add its "file_name"',
    NO_IMAGE: "add the image or remove the annotation",
    "annotations of a category that does not exist": 'add it to "categories" or correct the id',
    "annotations without bbox, area or iscrowd": f"{COMPLETE} them filled in",  # pycocotools needs them
    "boxes that are not four numbers": f"write [x, y, width, height] in px, or {COMPLETE} the boxes of the masks",
    "areas that are no number": f"give the mask's area in px, or {COMPLETE} it",
    "iscrowd that is neither 0 nor 1": "0: one object; 1: a region to be ignored",
    "crowds alone": "iscrowd 1 is a region to be ignored, nothing is learned; the exporter set it for all: write 0",
    '"ignore" flags': 'Detectron2 refuses them; use "iscrowd": 1 for ignored regions',
    "annotations without a mask": "DVIS learns from masks: add polygons or an RLE",
    "masks of unknown kind": "a mask is a list of polygons or an RLE",
    "RLE masks of another size than the image": "an RLE's size is [height, width] of the image; write the masks again",
    "broken RLE masks": "counts are a string, or a list of integers that add up to height x width",
    "malformed polygons": "a mask is a list of polygons, each a flat list x, y, x, y, ... of at least three points",
    "polygons with values that are no finite numbers": "write numbers, in px",
    "image files outside of the image folder": "correct the names; if they are meant, give the folder above all: /",
    "image files that are not in": "correct the image folder, or the file names",
    "image files that cannot be read": "copy them again, or do what the message says",
    "images of another size than the annotations say": "use the annotated ones: not resized, turned as EXIF says",
    "label files that are missing": UNPACK_AGAIN,
    "images that are missing": UNPACK_AGAIN,
    "images that cannot be read": UNPACK_AGAIN,
    "no images": "the image lists of VOC and SBD have none in common; check both archives",
}
WARNINGS = {
    "category names that occur twice": "give them different names",
    "categories without annotations": "they are never learned, their AP is undefined (nan); remove what is not needed",
    "images that are listed more than once": "list each once, with all of its annotations",
    "images without annotations": "fine if nothing is on them; DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves them out",
    "images of several pages or frames": "the first is used; save the one that is meant",
    "images of more than 8 bits": "they are stretched to 8 bits, each by itself: INPUT.NORMALIZE",
    "images whose masks seem to lie on the pixels before they are turned": "the annotation tool did not read the EXIF "
    "orientation; remove it from the files",
    "boxes without extent": f"correct or remove them; only the mask is learned from, or {COMPLETE} those of the masks",
    "areas of 0 or less": f"objects without area are not learned; redraw them, or {COMPLETE} the areas of the masks",
    "an annotation with id 0": f"pycocotools counts whoever finds it as wrong; number from 1, or {COMPLETE} new ids",
    "crowds among ordinary objects": "1 is a region to be ignored; exporters set it for RLE: write 0 for objects",
    "crowds drawn as polygons": "that works; COCO itself uses RLE for crowds",
    "empty masks": "they are not learned; remove or redraw them",
    "masks that reach outside of the image": "they are cut off; many such masks belong to images of another size",
}
ADVICE = ERRORS | WARNINGS | SERIOUS | DOUBTFUL


@dataclass
class Report:
    """`errors` make training or evaluation impossible, or silently wrong; with `warnings` it works. Both hold the cases
    of each kind of problem. `image_root` and `categories` are given as far as they could be read."""

    title: str
    image_root: str = ""
    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    categories: list[tuple[int, str]] = field(default_factory=list)  # the file's own (id, name), ascending by id

    def add(self, where: str, found: dict[str, Any]) -> None:
        """Note each problem whose value is true, a text is added to `where`; its key holds a key of the tables."""
        for what, detail in found.items():
            if detail:
                findings = self.errors if _kind(what) in ERRORS else self.warnings
                findings.setdefault(what, []).append(f"{where} {detail}" if isinstance(detail, str) else where)

    def raise_if_errors(self) -> None:
        """Raise :class:`DatasetError` with the whole report if there is an error."""
        if self.errors:
            raise DatasetError(str(self))

    def __str__(self) -> str:
        lines = [self.title]
        for label, findings in ("ERROR", self.errors), ("WARNING", self.warnings):
            for what, cases in findings.items():
                examples = "; ".join(map(printable, cases[:MAX_EXAMPLES])) + "; ..." * (len(cases) > MAX_EXAMPLES)
                lines += [f"  {label}: {printable(what)} ({len(cases)}): {examples}", f"      -> {ADVICE[_kind(what)]}"]
        if not self.errors:
            lines.append("  no errors" + ("" if self.warnings else ", no warnings"))
        return "\n".join(lines)


def _kind(what: str) -> str:
    return next(kind for kind in ADVICE if kind in what)


def printable(text: str, limit: int = 300) -> str:
    """With line ends, terminal escapes and the like as \\n, \\x1b, ..., and without the middle of what is very long."""
    text = text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    max_headers: int | None = 5000,
    progress: bool = False,
) -> Report:
    """Check annotations in COCO's format, and that the images are there. Nothing is raised for what is in the file.

    `image_root` is what the file names are relative to; None: the JSON's own folder, or its sub-folder "images" if the
    first image is found there only. `max_headers` images (None: all), evenly spread, are compared with their files.
    """
    report = Report(printable(str(json_file)))
    data = _read(json_file, report)
    if report.errors:
        return report
    images, annotations, categories = data["images"], data["annotations"], data["categories"]
    report.title += f": {len(images)} images, {len(annotations)} annotations, {len(categories)} categories"
    for kind, entries in ("category", categories), ("image", images), ("annotation", annotations):
        _check_ids(entries, kind, report)
    _check_categories(categories, _integers(annotations, "category_id"), report)
    usable = _usable_images(images, _integers(annotations, "image_id"), report)
    known, audit = (_integers(images, "id"), _integers(categories, "id")), MaskAudit()
    for annotation in tqdm(annotations, "annotations", disable=not progress):
        where = f"annotation {annotation.get('id')}"
        report.add(where, found := _field_problems(annotation, *known))
        if not found[NO_IMAGE] and (image := usable.get(annotation["image_id"])):
            where = f"{where} ({image['file_name']})"
            report.add(where, audit.examine(annotation, image["height"], image["width"], where))
    for where, found in audit.findings():
        report.add(where, found)
    for what in SERIOUS.keys() & report.warnings.keys():
        if len(report.warnings[what]) > SERIOUS_SHARE * audit.num_masks:
            report.errors[what] = report.warnings.pop(what)
    crowds = [f"annotation {a.get('id')}" for a in annotations if a.get("iscrowd") == 1]
    for where in crowds if len(crowds) > CROWD_SHARE * len(annotations) else ():
        are_all = len(crowds) == len(annotations)
        report.add(where, {"crowds alone": are_all, "crowds among ordinary objects": not are_all})
    root = find_root(json_file, image_root, [image["file_name"] for image in usable.values()])
    report.image_root = str(root)
    for where, found in check_image_files(list(usable.values()), annotations, root, max_headers, progress):
        report.add(where, found)
    return report


def _read(json_file: str | os.PathLike, report: Report) -> Any:
    try:
        data = read_json(json_file)
    except OSError as error:
        return report.add(str(error), {"the annotation file cannot be read": True})
    except ValueError as error:  # also wrong encodings
        return report.add(str(error), {"the annotation file is not JSON": True})
    for key in ("images", "annotations", "categories"):
        entries = data.get(key) if isinstance(data, dict) else None
        are_objects = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        found = {"the file is JSON but not COCO": not are_objects and "is no list of objects"}
        report.add(f'"{key}"', found | {"an empty list": entries == []})
    return data


def _check_ids(entries: list[dict], kind: str, report: Report) -> None:
    for position, entry in enumerate(entries):
        value = entry.get("id")
        report.add(f"entry {position} has id {value!r}", {f"{kind} ids that are no integers": type(value) is not int})
    for text in _twice(str(entry["id"]) for entry in entries if entry.get("id") is not None):
        report.add(f"id {text}", {f"{kind} ids that occur twice": True})


def _check_categories(categories: list[dict], used: set[int], report: Report) -> None:
    last = max(_integers(categories, "id"), default=None)
    for category in categories:
        id_, name = category.get("id"), category.get("name")
        if not isinstance(name, str):
            report.add(f"category {id_} has name {name!r}", {"categories without a name": True})
        elif type(id_) is int:
            report.categories.append((id_, name))
            hint = "(the last one: do the annotations count from 0, the categories from 1?)" if id_ == last else True
            report.add(f'category {id_} "{name}"', {"categories without annotations": id_ not in used and hint})
    report.categories.sort()
    for name in _twice(name for _, name in report.categories):
        report.add(f'"{name}"', {"category names that occur twice": True})


def _usable_images(images: list[dict], used: set[int], report: Report) -> dict[int, dict]:
    """Those with an id, a size and a file name, by id."""
    usable = {}
    for image in images:
        height, width, id_, name = (image.get(key) for key in ("height", "width", "id", "file_name"))
        sized = type(height) is type(width) is int and height > 0 < width and height * width <= MAX_PIXELS
        named = isinstance(name, str)
        if is_usable := sized and named and type(id_) is int:
            usable[id_] = image
        found = {
            "images without a size": not sized and f"has height {height!r}, width {width!r}",
            "images without a file name": not named,
            "images without annotations": is_usable and id_ not in used,
        }
        report.add(f"image {id_} ({name})", found)
    for file_name in _twice(os.path.normpath(image["file_name"]) for image in usable.values()):
        report.add(file_name, {"images that are listed more than once": True})
    return usable


def _field_problems(annotation: dict, image_ids: set[int], category_ids: set[int]) -> dict[str, Any]:
    """Of all fields but the segmentation."""
    box, area, crowd = (annotation.get(key) for key in ("bbox", "area", "iscrowd"))
    missing = [key for key in ("bbox", "area", "iscrowd") if annotation.get(key) is None]
    extent = min(box[2:]) if is_box(box) else None
    return {
        NO_IMAGE: _unknown(annotation, "image_id", image_ids),
        "annotations of a category that does not exist": _unknown(annotation, "category_id", category_ids),
        "annotations without bbox, area or iscrowd": missing and f"has no {', '.join(missing)}",
        "boxes that are not four numbers": box is not None and extent is None and f"has bbox {box!r}",
        "boxes without extent": extent is not None and extent <= 0 and f"has bbox {box}",
        "areas that are no number": area is not None and not is_number(area) and f"has area {area!r}",
        "areas of 0 or less": is_number(area) and area <= 0 and f"has area {area:g}",
        "iscrowd that is neither 0 nor 1": crowd not in (None, 0, 1) and f"has iscrowd {crowd!r}",
        '"ignore" flags': bool(annotation.get("ignore", 0)),
        "an annotation with id 0": annotation.get("id") == 0,
    }


def _unknown(annotation: dict, key: str, known: set[int]) -> str:
    if type(value := annotation.get(key)) is int and value in known:
        return ""
    hint = "; --complete repairs strings and fractions" if isinstance(value, str | float) else ""
    return f"has {key} {value!r}{hint}"


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _integers(entries: list[dict], key: str) -> set[int]:
    return {value for entry in entries if type(value := entry.get(key)) is int}
