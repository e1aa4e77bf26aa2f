"""Write drawn shapes as a COCO data set: `<directory>/images/*.png` and `<directory>/annotations.json`.

Beside COCO's keys an image has "copies" and "bar" (bool: it holds identical copies, a bar) and an annotation
has "split" (bool: the object is visible in two or more parts), so that results can be told apart by
difficulty.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from filelock import FileLock
from tqdm import tqdm

from .shapes import draw_image
from .shapes_render import CLASS_NAMES

PRESETS: dict[str, dict] = {
    "shapes": {"num_objects": (1, 8), "bars": 0.45, "copies": 0.35, "texture": True, "min_visible": 0.4},
    "shapes_easy": {"num_objects": (1, 6), "bars": 0.0, "copies": 0.35, "texture": False, "min_visible": 0.7},
}
PRESETS["shapes_crowd"] = PRESETS["shapes_easy"] | {
    "height": 208,
    "width": 208,
    "num_objects": (1, 30),
    "object_size": (20.5, 53.8),
}
"""Options of `draw_image` for the built-in sets: the hard one; one without bars, on calm backgrounds, in which
at most 30 % of an object is hidden; and objects of the same size and look as there, up to 30 on a larger canvas."""

ANNOTATIONS = "annotations.json"
IMAGES = "images"


def write_shapes(
    directory: str | os.PathLike, *, num_images: int, seed: int, progress: bool = True, **draw_options
) -> Path:
    """Draw a data set into a new folder (one that holds it already is left alone). The folder appears
    complete or not at all.

    Image i depends on `seed`, i and `draw_options` only, not on `num_images`. Several processes may call this
    for one folder: one draws, the others wait and then find the folder. What a killed process left is
    removed.

    Args:
        directory: created, together with its parents.
        num_images: at least 1.
        seed: >= 0.
        progress: show a progress bar on standard error.
        draw_options: keywords of :func:`dvis_d2.data.shapes.draw_image`.

    Returns:
        the path of the annotations file.

    Raises:
        FileExistsError: the folder exists and holds something else, or shapes made with other arguments.
        ValueError: an option is out of range.
    """
    directory = Path(directory)
    annotations = directory / ANNOTATIONS
    if num_images < 1 or seed < 0:
        raise ValueError(f"num_images is {num_images}, seed is {seed}: give at least 1 image and a seed >= 0")
    directory.parent.mkdir(parents=True, exist_ok=True)
    info = json.loads(json.dumps({"num_images": num_images, "seed": seed, "options": draw_options}))
    with FileLock(directory.with_name(f".{directory.name}.lock")):
        if annotations.exists():  # drawn by another process while this one waited, or long ago
            _check_made_from(annotations, info)
            return annotations
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} exists but holds no {ANNOTATIONS}: move it away or give another folder")
        prefix = f".{directory.name}.partial-"
        for leftover in directory.parent.iterdir():
            if leftover.name.startswith(prefix):  # of a dead process: whoever holds the lock draws alone
                shutil.rmtree(leftover)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
        try:
            content = _draw_all(partial, num_images, seed, progress, directory.name, draw_options)
            (partial / ANNOTATIONS).write_text(json.dumps({"info": info, **content}))
            partial.chmod(0o755)  # mkdtemp makes a private folder
            os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return annotations


def _draw_all(directory: Path, num_images: int, seed: int, progress: bool, name: str, draw_options: dict) -> dict:
    """Write the images; return COCO's lists."""
    (directory / IMAGES).mkdir()
    images, annotations = [], []
    for index in tqdm(range(num_images), desc=f"drawing {name}", unit="image", mininterval=1, disable=not progress):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        image, masks, classes, attributes = draw_image(rng, **draw_options)
        file_name = f"{index:06d}.png"
        _write_png(directory / IMAGES / file_name, image)
        images.append(
            {
                "id": index + 1,
                "file_name": file_name,
                "height": image.shape[0],
                "width": image.shape[1],
                "copies": attributes["has_copies"],
                "bar": attributes["has_bar"],
            }
        )
        for mask, class_id, split in zip(masks, classes, attributes["split_instances"], strict=True):
            annotations.append(_annotation(len(annotations) + 1, index + 1, mask, class_id, split))
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": class_name} for k, class_name in enumerate(CLASS_NAMES, start=1)],
    }


def _check_made_from(annotations: Path, info: dict) -> None:
    found = json.loads(annotations.read_text())["info"]
    if found != info:
        raise FileExistsError(
            f"{annotations.parent} holds other shapes ({found}, not {info}): move it away or name another"
        )


def _annotation(annotation_id: int, image_id: int, mask: np.ndarray, class_id: int, split: bool) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": class_id + 1,
        "iscrowd": 0,
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "split": split,
    }


def _write_png(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"cannot write {path}: is the disk full?")
