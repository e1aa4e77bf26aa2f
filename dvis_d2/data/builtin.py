"""The built-in data sets `shapes_{train,val}`, `shapes_easy_{train,val}` and `shapes_crowd_{train,val}`, drawn on
first use into `$DETECTRON2_DATASETS/dvis_shapes/<version>/<name>/` (default `./datasets`, as Detectron2's own).

A set is `images/*.png` and `annotations.json` in COCO's format, where beside COCO's keys an image has "copies" and
"bar" (bool: it holds identical copies, a bar) and an annotation has "split" (bool: the object is in two or more parts).
"""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from tqdm import tqdm

from ..safe_io import locked
from .annotations import encode_masks
from .mask_folders import CocoLists
from .pascal import register_pascal
from .shapes import draw_image
from .shapes_render import CLASS_NAMES

VERSION = "v1"  # raise it whenever the drawing changes, so that nobody trains on pictures of two kinds
ANNOTATIONS, IMAGES = "annotations.json", "images"

# Options of `draw_image`: the hard set; one without bars, on calm backgrounds, in which at most 30 % of an object is
# hidden; and objects of the same size and look as there, up to 30 on a larger canvas.
PRESETS: dict[str, dict] = {
    "shapes": {"num_objects": (1, 8), "bars": 0.45, "copies": 0.35, "texture": True, "min_visible": 0.4},
    "shapes_easy": {"num_objects": (1, 6), "bars": 0.0, "copies": 0.35, "texture": False, "min_visible": 0.7},
}
_CROWD = {"height": 208, "width": 208, "num_objects": (1, 30), "object_size": (20.5, 53.8)}
PRESETS["shapes_crowd"] = PRESETS["shapes_easy"] | _CROWD


class ShapesSplit(NamedTuple):
    preset: str  # a key of `PRESETS`
    num_images: int
    seed: int
    class_names: tuple[str, ...] = ()  # those that are drawn; () for all


BUILTIN_SPLITS = {
    "shapes_easy_train": ShapesSplit("shapes_easy", 2000, 101),
    "shapes_easy_val": ShapesSplit("shapes_easy", 200, 102),
    "shapes_train": ShapesSplit("shapes", 4000, 201),
    "shapes_val": ShapesSplit("shapes", 400, 202),
    "shapes_crowd_train": ShapesSplit("shapes_crowd", 2000, 301),
    "shapes_crowd_val": ShapesSplit("shapes_crowd", 200, 302),
}


def register_builtin() -> None:
    """Register the built-in sets, and PASCAL's, below `$DETECTRON2_DATASETS`."""
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    register_shapes(root, BUILTIN_SPLITS)
    register_pascal(root)


def register_shapes(root: str | os.PathLike, splits: dict[str, ShapesSplit]) -> None:
    """Register data sets by name, to be drawn on first use. A name that is registered already is left alone."""
    for name, split in splits.items():
        if name in DatasetCatalog:
            continue
        directory = Path(root) / "dvis_shapes" / VERSION / name
        DatasetCatalog.register(name, partial(load_shapes, name, split, directory))
        MetadataCatalog.get(name).set(
            thing_classes=list(CLASS_NAMES),
            thing_dataset_id_to_contiguous_id={k + 1: k for k in range(len(CLASS_NAMES))},
            json_file=str(directory / ANNOTATIONS),
            image_root=str(directory / IMAGES),
            evaluator_type="coco",
        )


def load_shapes(name: str, split: ShapesSplit, directory: Path) -> list[dict]:
    """Detectron2's dataset dicts of a built-in set, drawing it first where that has not happened yet."""
    if not (directory / ANNOTATIONS).exists():
        # left out where all are drawn: the options are stored in the file, and older sets had no such option
        options = PRESETS[split.preset] | ({"class_names": split.class_names} if split.class_names else {})
        write_shapes(directory, num_images=split.num_images, seed=split.seed, **options)
    return load_coco_json(str(directory / ANNOTATIONS), str(directory / IMAGES), name)


def write_shapes(
    directory: str | os.PathLike, *, num_images: int, seed: int, progress: bool = True, **draw_options
) -> Path:
    """Draw a data set into a new folder (one that holds it already is left alone), and return its annotations file.

    Image i depends on `seed` (>= 0), i and `draw_options` (keywords of :func:`.shapes.draw_image`) only. The folder
    appears complete or not at all; of several processes one draws, the others wait. ValueError where an option is out
    of range, FileExistsError where the folder holds something else, or shapes made with other arguments.
    """
    directory = Path(directory)
    if num_images < 1 or seed < 0:
        raise ValueError(f"num_images is {num_images}, seed is {seed}: give at least 1 image and a seed >= 0")
    directory.parent.mkdir(parents=True, exist_ok=True)
    annotations = directory / ANNOTATIONS
    info = json.loads(json.dumps({"num_images": num_images, "seed": seed, "options": draw_options}))
    with locked(directory.with_name(f".{directory.name}.lock"), f"another process to draw {directory}"):
        if annotations.exists():  # drawn by another process while this one waited, or long ago
            if (found := json.loads(annotations.read_text())["info"]) != info:
                advice = "move it away or name another"
                raise FileExistsError(f"{directory} holds other shapes ({found}, not {info}): {advice}")
            return annotations
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} exists but holds no {ANNOTATIONS}: move it away or give another folder")
        partial_set = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial_set, ignore_errors=True)  # of a dead process: whoever holds the lock draws alone
        try:
            content = _draw_all(partial_set, directory.name, num_images, seed, progress, draw_options)
            (partial_set / ANNOTATIONS).write_text(json.dumps({"info": info, **content}))
            os.replace(partial_set, directory)
        finally:
            shutil.rmtree(partial_set, ignore_errors=True)
    return annotations


def _draw_all(folder: Path, name: str, num_images: int, seed: int, progress: bool, options: dict) -> dict[str, list]:
    """Write the images; return COCO's lists."""
    (folder / IMAGES).mkdir(parents=True)
    lists = CocoLists(folder / IMAGES, CLASS_NAMES)
    for index in tqdm(range(num_images), f"drawing {name}", unit="image", mininterval=1, disable=not progress):
        image, masks, classes, attributes = draw_image(np.random.default_rng([seed, index]), **options)
        path = folder / IMAGES / f"{index:06d}.png"
        if not cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"cannot write {path}: is the disk full?")
        rles = encode_masks(np.array(masks, dtype=bool).reshape(-1, *image.shape[:2]))
        entry, annotations = lists.add("", path, zip(classes, rles, strict=True))
        entry |= {"copies": attributes["has_copies"], "bar": attributes["has_bar"]}
        for annotation, split in zip(annotations, attributes["split_instances"], strict=True):
            annotation["split"] = split
    return lists[""]
