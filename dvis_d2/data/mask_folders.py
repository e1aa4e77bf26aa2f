"""Readers of images whose masks are files: label images (one integer an object) and binary masks (one file an object).

Readers take a folder and its files, and give COCO's lists by the part they belong to: "train", "val", "test" or "".
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from .cropped_masks import CroppedMasks
from .dataset_errors import FormatError
from .image_io import probe_image
from .to_coco import coco_fields

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")  # JPEG would blur the numbers
IMAGE_FOLDERS, MASK_FOLDERS = {"images", "image", "imgs", "img"}, {"masks", "mask", "labels", "label"}
MASK_ENDING, IMAGE_ENDING = re.compile(r"(_cp)?_(masks?|labels?)$"), re.compile("_(img|image)$")
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")


class CocoLists(dict):
    """COCO's lists by part. Ids start at 1; file names are relative to the folder `root`."""

    def __init__(self, root: Path, class_names: Iterable[str] = ("object",)):
        self.root = root
        self.categories = [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)]

    def add(self, part: str, image: Path, objects: Iterable[tuple[int, Any]]) -> tuple[dict, list[dict]]:
        """Enter an image and its objects: class number from 0, and polygons or RLE. The new entries."""
        lists = self.setdefault(part, {"images": [], "annotations": [], "categories": self.categories})
        size, image_id = image_size(image), len(lists["images"]) + 1
        name = Path(os.path.relpath(image, self.root)).as_posix()
        lists["images"].append(entry := {"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        added = [
            {"id": number, "image_id": image_id, "category_id": class_id + 1, "iscrowd": 0}
            | coco_fields(segmentation, size, str(image))
            for number, (class_id, segmentation) in enumerate(objects, start=len(lists["annotations"]) + 1)
        ]
        lists["annotations"] += added
        return entry, added


def part_of(path: Path) -> str:
    """ "train", "val", "test" or "", by the words of a relative path, the last one first."""
    words = re.findall("[a-z]+", path.as_posix().lower())
    return next((PARTS[word] for word in reversed(words) if word in PARTS), "")


def some(paths: Iterable[Any]) -> str:
    """The first three, and how many there are beside them."""
    names = sorted(map(str, paths))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width)."""
    try:
        info = probe_image(path)
    except (OSError, ValueError) as error:
        raise FormatError(str(error), "copy it again, or take it out") from error
    return info.height, info.width


def pair_masks(root: Path, files: list[Path]) -> tuple[dict[str, Path], dict[str, list[Path]], bool]:
    """Images and, by the same keys, the masks of each, none if there are no masks; whether these are label images.

    Label images have the image's name, in a folder of masks or with an ending like "_masks"; else all in ID/masks/ are
    the masks of ID/images/*, where that is a single image, and all in masks/ID/ those of images/ID.*.
    """
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files:
        *folders, _ = path.relative_to(root).parts
        in_masks, stem = not MASK_FOLDERS.isdisjoint(f.lower() for f in folders), MASK_ENDING.sub("", path.stem)
        folders = [f for f in folders if f.lower() not in IMAGE_FOLDERS | MASK_FOLDERS]
        if path.suffix.lower() in MASK_SUFFIXES and (in_masks or stem != path.stem):
            masks[_free(masks, "/".join([*folders, stem]), path)] = path
        elif path.suffix.lower() in IMAGE_SUFFIXES and not in_masks and not path.stem.endswith("_flows"):  # Cellpose
            images[_free(images, "/".join([*folders, IMAGE_ENDING.sub("", path.stem)]), path)] = path
    in_folder, groups = defaultdict(list), defaultdict(list)
    for key in images:
        in_folder[key.rpartition("/")[0]].append(key)
    for key, path in masks.items():
        folder = key.rpartition("/")[0]
        owners = [folder] if folder in images else in_folder[folder]
        if folder and len(owners) == 1:
            groups[owners[0]].append(path)
    same_names = not masks.keys().isdisjoint(images)
    if same_names and (masks.keys() == images.keys() or groups.keys() != images.keys()):
        return images, {key: [path] for key, path in masks.items()}, True
    return images, groups, False


def _free(paths: dict[str, Path], key: str, path: Path) -> str:
    """A key that no other file has: the second of a.png and a.jpg then has no mask, which is said."""
    return key + path.suffix if key in paths else key


def read_masks(root: Path, files: list[Path]) -> CocoLists:
    """0 is background. All objects are of the class "object"."""
    images, masks, are_labels = pair_masks(root, files)
    alone = [path for key, path in images.items() if key not in masks]
    if alone := alone or [path for key, paths in masks.items() if key not in images for path in paths]:
        advice = "images/a.png needs masks/a.png, a.png needs a_masks.png, ID/images/ needs ID/masks/; or take them out"
        raise FormatError(f"images without masks, or masks without an image: {some(alone)}", advice)
    lists, most, in_parts = CocoLists(root), 0, []
    num_seams, total, blurred = 0, 0, list[Path]()
    for key, image in sorted(images.items()):
        objects: list[dict] = []
        for path in masks[key]:
            labels, size = read_labels(path), image_size(image)
            if labels.shape != size:
                what = f"mask {path} is {labels.shape[1]} x {labels.shape[0]} px, {image} {size[1]} x {size[0]}"
                raise FormatError(what, "a mask must have the size of its image (turned as EXIF says)")
            found = label_image_to_rle(labels)
            if not are_labels and len(found) > 1:
                raise FormatError(f"mask {path} has {len(found)} values beside 0", "a mask of one object has one")
            if len(found) == 1 and are_labels and cv2.connectedComponents((labels != 0).astype(np.uint8))[0] > 2:
                in_parts.append(path)
            objects += found
            if are_labels and (seams := count_seams(labels)):
                num_seams, blurred = num_seams + seams, [*blurred, path]
        most, total = max(most, len(objects)), total + len(objects)
        lists.add(part_of(image.relative_to(root).parent), image, ((0, rle) for rle in objects))
    if 2 * num_seams > total:
        what = f"{num_seams} of {total} objects are thin seams of others, as of blurred masks: {some(blurred)}"
        raise FormatError(
            what, "masks of numbers must not be smoothed: resize them by the nearest pixel, save them as PNG"
        )
    if most == 1 and 2 * len(in_parts) > len(images):
        advice = "give every object its own integer, say with skimage.measure.label"
        what = f"masks of foreground, not of objects (one value, in several places): {some(in_parts)}"
        raise FormatError(what, advice)
    return lists


def read_labels(path: Path) -> np.ndarray:
    """Integers >= 0, int64 (h, w), of a PNG (of a palette's, the indices), TIFF or another file without loss."""
    try:
        is_tiff = path.suffix.lower().startswith(".tif")  # of which Pillow does not read all integers
        labels = np.squeeze(tifffile.imread(path)) if is_tiff else np.asarray(Image.open(path))
    except Exception as error:  # whatever the libraries make of damaged files
        advice = "save it again, as PNG or TIFF of integers"
        raise FormatError(f"mask {path} cannot be read ({error})", advice) from error
    if labels.ndim == 3 and labels.shape[2] <= 4:
        channels = labels[:, :, : 3 if labels.shape[2] > 2 else 1]
        labels = labels[:, :, 0] if (channels == channels[:, :, :1]).all() else labels  # gray, saved as color
    if labels.ndim != 2 or labels.dtype.kind not in "bui" or labels.min() < 0 or int(labels.max()) >= 2**63:
        advice = 'one integer >= 0 a pixel is expected, (height, width): save labels.astype("uint16")'
        raise FormatError(f"mask {path} is {labels.dtype} {labels.shape}, from {labels.min()}", advice)
    return labels.astype(np.int64)


def count_seams(labels: np.ndarray) -> int:
    """How many objects of a label image touch another one and have no pixel inside, whose four neighbors are theirs: as
    between two objects, or around one, where numbers were interpolated."""
    padded = np.pad(labels, 1)
    around = np.stack([padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]])
    inside = labels[(around == labels).all(axis=0)]
    touching = labels[((around != labels) & (around > 0)).any(axis=0)]
    return len(np.setdiff1d(touching[touching > 0], inside))


def label_image_to_rle(labels: np.ndarray) -> list[dict]:
    """COCO RLE of every value above 0 in an integer image (h, w), ascending."""
    values, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape) + (values[0] > 0)  # find_objects leaves out 0
    places = ndimage.find_objects(numbers)
    crops = [numbers[place] == k for k, place in enumerate(places, start=1)]
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in places]
    return CroppedMasks(labels.shape, np.array(boxes), crops).to_rle()
