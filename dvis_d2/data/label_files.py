"""Instance masks that are stored as label images beside the images: PASCAL VOC's palette PNGs, SBD's .mat files.

A dataset dict carries their paths instead of "annotations"; they are read when the image is, because reading 10,000 of
them at the start would take minutes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image
from scipy.io import loadmat

from .cropped_masks import CroppedMasks

VOID = 255  # PASCAL's label of borders and of objects too difficult to outline
COPY_AGAIN = "the file is damaged or of another kind; unpack it again from the original archive"


def read_instance_labels(entry: dict[str, Any], num_classes: int = 20) -> tuple[list[dict], np.ndarray | None]:
    """The annotations of one image by instance id, masks bool (h, w), and its pixels with label 255, bool or None.

    "instance_label_file" is a .mat file of SBD (`inst/*.mat`), or a palette PNG whose pixels are the instance ids; with
    a PNG, "class_label_file" is the palette PNG of the class ids, where the class of most of its pixels is an
    instance's. In the files class ids are 1..num_classes, in "category_id" they start at 0.

    FileNotFoundError where a file is missing; ValueError, naming it, where one is damaged, has lost its palette, or the
    two do not fit together.
    """
    path = entry["instance_label_file"]
    is_sbd = str(path).endswith(".mat")
    instance_ids, classes = _read_sbd(path) if is_sbd else _read_voc(path, entry["class_label_file"])
    numbers = [int(k) for k in np.unique(instance_ids) if k not in (0, VOID)]
    for k in numbers:
        if not 1 <= (class_id := classes.get(k, 0)) <= num_classes:
            found = f"class {class_id}" if class_id else "no class"
            raise ValueError(f"{path}: instance {k} has {found}; classes are 1..{num_classes}; {COPY_AGAIN}")
    masks = instance_ids == np.array(numbers, dtype=np.int64).reshape(-1, 1, 1)
    shared = {"bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
    annotations = [
        {"segmentation": mask, "category_id": classes[k] - 1, "bbox": box, **shared}
        for k, mask, box in zip(numbers, masks, CroppedMasks.from_masks(masks).boxes.tolist(), strict=True)
    ]
    void = instance_ids == VOID
    return annotations, void if void.any() else None


@contextlib.contextmanager
def _errors_name(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        advice = "unpack the archive again, or take the image off the list"
        raise FileNotFoundError(f"label file {path} does not exist: {advice}") from error
    except Exception as error:  # whatever PIL and SciPy make of malformed input
        raise ValueError(f"cannot read label file {path} ({error!r}): {COPY_AGAIN}") from error


def _read_palette(path: str) -> np.ndarray:
    with _errors_name(path), PathManager.open(path, "rb") as file, Image.open(file) as image:
        mode, labels = image.mode, np.array(image)  # palette indices
    if mode != "P":
        lost = "not a palette (P): converting it replaced the labels by colors"
        raise ValueError(f"label file {path} has mode {mode}, {lost}; use the PNG of the original archive")
    return labels


def _read_voc(path: str, class_path: str) -> tuple[np.ndarray, dict[int, int]]:
    """uint8 (h, w), and the class id (1-based) with the most pixels under each instance."""
    instance_ids, class_ids = _read_palette(path), _read_palette(class_path)
    if class_ids.shape != instance_ids.shape:
        found = f"{path} is {instance_ids.shape} px (height, width), {class_path} is {class_ids.shape}"
        raise ValueError(f"{found}: both must come from the same archive")
    voting = (class_ids != 0) & (class_ids != VOID)
    pairs = instance_ids[voting].astype(np.int64) * 256 + class_ids[voting]
    votes = np.bincount(pairs, minlength=256 * 256).reshape(256, 256)
    return instance_ids, {int(k): int(votes[k].argmax()) for k in np.flatnonzero(votes.any(axis=1))}


def _read_sbd(path: str) -> tuple[np.ndarray, dict[int, int]]:
    """uint8 (h, w), and the class id (1-based) of every instance."""
    with _errors_name(path), PathManager.open(path, "rb") as file:
        content = loadmat(file, variable_names=["GTinst"])["GTinst"][0, 0]
        labels, categories = np.asarray(content["Segmentation"]), np.asarray(content["Categories"]).ravel()
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        found = f"GTinst.Segmentation is {labels.dtype} {labels.shape}, no map of integers"
        raise ValueError(f"{path}: {found}; {COPY_AGAIN}")
    return labels, {k: int(class_id) for k, class_id in enumerate(categories, start=1)}
