"""The built-in data sets `shapes_{train,val}`, `shapes_easy_{train,val}`, `shapes_crowd_{train,val}` and
`shapes_seen_train`, drawn on first use.

They live in `$DETECTRON2_DATASETS/dvis_shapes/<version>/<name>/` (default `./datasets`, as Detectron2's own).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .shapes_dataset import ANNOTATIONS, IMAGES, PRESETS, write_shapes
from .shapes_render import CLASS_NAMES

VERSION = "v1"  # raise it whenever the drawing changes, so that nobody trains on pictures of two kinds


@dataclass(frozen=True)
class ShapesSplit:
    """`preset`: a key of `PRESETS`; `class_names`: those that are drawn, () for all."""

    preset: str
    num_images: int
    seed: int
    class_names: tuple[str, ...] = ()


# Disc and star are never drawn: a simple shape, round and convex like none of these, and a hard one, the only one with
# concave corners. Evaluated on shapes_val, which has all five.
SEEN_CLASSES = ("square", "triangle", "ring")

BUILTIN_SPLITS = {
    "shapes_easy_train": ShapesSplit("shapes_easy", 2000, 101),
    "shapes_easy_val": ShapesSplit("shapes_easy", 200, 102),
    "shapes_train": ShapesSplit("shapes", 4000, 201),
    "shapes_val": ShapesSplit("shapes", 400, 202),
    "shapes_crowd_train": ShapesSplit("shapes_crowd", 2000, 301),
    "shapes_crowd_val": ShapesSplit("shapes_crowd", 200, 302),
    "shapes_seen_train": ShapesSplit("shapes", 4000, 401, SEEN_CLASSES),
}


def register_shapes(root: str | os.PathLike, splits: dict[str, ShapesSplit]) -> None:
    """Register data sets by name without drawing anything. A name that is registered already is left alone.

    The pictures are drawn when `DatasetCatalog.get(name)` is first called; the metadata are complete at once.
    """
    for name, split in splits.items():
        if name in DatasetCatalog:
            continue
        directory = Path(root) / "dvis_shapes" / VERSION / name
        DatasetCatalog.register(name, lambda n=name, s=split, d=directory: load_shapes(n, s, d))
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
        # left out where all are drawn: the options are stored in the file, and sets of before had no such option
        classes = {"class_names": split.class_names} if split.class_names else {}
        write_shapes(directory, num_images=split.num_images, seed=split.seed, **PRESETS[split.preset], **classes)
    return load_coco_json(str(directory / ANNOTATIONS), str(directory / IMAGES), name)


def register_builtin() -> None:
    """Register the built-in sets below `$DETECTRON2_DATASETS`."""
    register_shapes(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), BUILTIN_SPLITS)
