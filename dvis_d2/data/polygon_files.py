"""Readers of images whose objects are outlined in a text file each: YOLO's and LabelMe's. See :mod:`.mask_folders`."""

import base64
import io
import math
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..safe_io import parse_yaml
from .annotations import to_mask
from .dataset_errors import FormatError
from .mask_folders import IMAGE_SUFFIXES, CocoLists, image_size, part_of, some

YOLO_LINE = "a line is: class x y x y x y ..., at least three points, as shares of width and height (0 to 1)"


def is_yolo(root: Path, path: Path) -> bool:
    """Whether a file is a data.yaml, or holds the labels of an image."""
    if path.suffix in (".yaml", ".yml"):
        return re.search(rb"^(names|train|nc)\s*:", path.read_bytes(), re.MULTILINE) is not None
    return path.suffix == ".txt" and "labels" in path.relative_to(root).parts


def read_yolo(root: Path, files: list[Path]) -> CocoLists:
    """Images of data.yaml's "train", "val" and "test", with labels/NAME.txt for images/NAME.*, or beside the image. An
    image without a text file has no objects."""
    described = [path for path in files if path.suffix != ".txt" and is_yolo(root, path)]
    if len(described) != 1:
        what = f"YOLO labels with {len(described)} descriptions in {root}: {some(described) or 'no data.yaml'}"
        raise FormatError(what, 'one data.yaml is expected, with "names", "train" and "val"; --data takes it as well')
    content = parse_yaml(described[0].read_bytes(), str(described[0]))
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    numbered = isinstance(names, dict) and all(isinstance(key, int) for key in names)
    if not numbered or not names or content.get("nc", len(names)) != len(names):
        what = f'"names" is {names!r} and "nc" {content.get("nc")!r} in {described[0]}'
        raise FormatError(what, 'list the class names, in the order of their ids: names: ["cat", "dog"]')
    ids = {key: k for k, key in enumerate(sorted(names))}
    lists, start = CocoLists(root, (str(names[key]) for key in ids)), described[0].parent / str(content.get("path", ""))
    labels: dict[Path, Path | None] = {}
    for part in ("train", "val", "test"):
        entries = content.get(part) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            for image in _yolo_images(start, str(entry), described[0], files):
                if image not in labels:  # "val" is often the same as "train"
                    labels[image] = text = _yolo_labels(image)
                    lists.add(part, image, _yolo_objects(text, image_size(image), ids) if text else ())
    if not any(labels.values()):
        raise FormatError(f"no labels for the {len(labels)} images of {described[0]}", "put them as labels/NAME.txt")
    return lists


def _yolo_images(start: Path, entry: str, described: Path, files: list[Path]) -> list[Path]:
    """Those of a folder, or of a list of files; what stands before it may be of the machine that wrote data.yaml."""
    pieces = [piece for piece in Path(entry).parts if piece not in ("..", "/")]
    tried = [start / entry, *(described.parent.joinpath(*pieces[k:]) for k in range(len(pieces)))]
    found = next((Path(os.path.normpath(path)) for path in tried if path.exists()), None)
    if found is None:
        raise FormatError(f"{described}: {entry} is not in {described.parent}", "correct the path")
    if found.suffix == ".txt":
        lines = list(filter(None, map(str.strip, _lines(found))))
        if any(line.endswith(".txt") for line in lines):
            raise FormatError(f"{found} names another list", "name the images themselves, one a line")
        return [image for line in lines for image in _yolo_images(start, line, described, files)]
    inside = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and found in path.parents]
    return [found] if found.is_file() else inside


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def _yolo_labels(image: Path) -> Path | None:
    """In labels/ for the last images/ of the path, or beside the image."""
    before, found, after = str(image.with_suffix(".txt")).rpartition(f"{os.sep}images{os.sep}")
    tried = Path(before + found.replace("images", "labels") + after), image.with_suffix(".txt")
    return next(filter(Path.is_file, tried), None)


def _yolo_objects(path: Path, size: tuple[int, int], ids: dict[Any, int]) -> list[tuple[int, list]]:
    objects = []
    for number, line in enumerate(_lines(path), start=1):
        where, words = f"{path}, line {number}", line.split()
        if not words:
            continue
        try:
            class_id, *values = int(words[0]), *map(float, words[1:])
        except ValueError:
            raise FormatError(f"{where} holds what is no number: {line[:60]}", YOLO_LINE) from None
        if class_id not in ids:
            raise FormatError(f"{where} has class {class_id}; data.yaml has {some(ids)}", "add its name, or correct it")
        if len(values) == 4:
            raise FormatError(f"{where} is a box, no outline", f"export instance segmentation; {YOLO_LINE}")
        if len(values) < 6 or len(values) % 2 or not all(math.isfinite(v) and -0.01 <= v <= 1.01 for v in values):
            raise FormatError(f"{where} is no outline: {line[:60]}", YOLO_LINE)
        points = np.clip(np.reshape(values, (-1, 2)), 0, 1) * size[::-1]
        objects.append((ids[class_id], [points.ravel().round(3).tolist()]))
    return objects


def read_labelme(root: Path, files: list[Path], contents: dict[Path, Any]) -> CocoLists:
    """Polygons, rectangles and masks; shapes of one label and group_id are one object."""
    shapes = [shape for content in contents.values() for shape in content["shapes"] if isinstance(shape, dict)]
    names = sorted({label for shape in shapes if isinstance(label := shape.get("label"), str)})
    lists, images = CocoLists(root, names), {p.with_suffix(""): p for p in files if p.suffix in IMAGE_SUFFIXES}
    for path, content in contents.items():
        named = path.parent / str(content["imagePath"]).replace("\\", "/")
        tried = named, path.parent / named.name, images.get(path.with_suffix(""), named)
        image = next(filter(Path.is_file, tried), None)
        if image is None:
            raise FormatError(f"{path} is for {named}, which is not there", "put the image beside the JSON")
        size, stated = image_size(image), tuple(content.get(key) for key in ("imageHeight", "imageWidth"))
        if all(stated) and stated != size:
            what = f"{path} is for an image of {stated[1]} x {stated[0]} px, {image} has {size[1]} x {size[0]}"
            raise FormatError(what, "give the image that was annotated: not resized, turned as EXIF says")
        grouped: dict[Any, list] = defaultdict(list)
        for index, shape in enumerate(content["shapes"]):
            where = f"{path}, shape {index}"
            try:
                index_of_name, group = names.index(shape["label"]), shape.get("group_id")
                segmentation = _labelme_shape(shape, image, where)
            except FormatError:
                raise
            except Exception as error:  # whatever is made of malformed shapes
                raise FormatError(f"{where} cannot be read ({error!r})", "draw it again, or take it out") from error
            grouped[index_of_name, index if group is None else f"group {group}"].append(segmentation)
        objects = [(name, _union(parts, image)) for (name, _), parts in grouped.items()]
        lists.add(part_of(path.relative_to(root).parent), image, objects)
    return lists


def _labelme_shape(shape: dict, image: Path, where: str) -> list | np.ndarray:
    """Polygons, or a mask, bool (h, w)."""
    kind, points = shape.get("shape_type", "polygon"), np.asarray(shape["points"], dtype=float)
    if points.shape != (len(points), 2) or not np.isfinite(points).all():
        raise ValueError("its points are not [x, y], finite")
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "mask" and len(points):
        mask, (x, y) = np.zeros(image_size(image), dtype=bool), points[0].round().astype(int)
        patch = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) != 0
        mask[y : y + patch.shape[0], x : x + patch.shape[1]] = patch[: mask.shape[0] - y, : mask.shape[1] - x]
        return mask
    elif kind != "polygon" or len(points) < 3:
        advice = "an object is a polygon of at least three points, a rectangle or a mask; take others out"
        raise FormatError(f"{where}, {shape['label']!r}, is a {kind} of {len(points)} points", advice)
    return [points.ravel().tolist()]


def _union(parts: list, image: Path) -> list | np.ndarray:
    if all(isinstance(part, list) for part in parts):
        return [polygon for part in parts for polygon in part]
    return np.any([to_mask(part, image_size(image), str(image)) for part in parts], axis=0)
