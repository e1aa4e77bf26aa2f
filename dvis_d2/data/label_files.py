"""Instance masks that are stored as label images beside the images: PASCAL VOC's palette PNGs, SBD's .mat files.

A dataset dict carries their paths ("instance_label_file", and "class_label_file" for PNGs) instead of "annotations";
they are read when the image is. Reading 10,000 of them at the start would take minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image
from scipy.io import loadmat

VOID = 255  # PASCAL's label of borders and of objects too difficult to outline
COPY_AGAIN = "the file is damaged or of another kind; unpack it again from the original archive"


def read_instance_labels(
    dataset_dict: dict[str, Any], *, num_classes: int = 20
) -> tuple[list[dict[str, Any]], np.ndarray | None]:
    """Read what the label files of one image hold.

    Args:
        dataset_dict: "instance_label_file" is a .mat file of SBD (`inst/*.mat`), or a palette PNG whose pixels are
            the instance ids; with a PNG, "class_label_file" is the palette PNG of the class ids (1-based, in pixels).
        num_classes: class ids are 1..num_classes in the files.

    Returns:
        annotations: in Detectron2's format, by ascending instance id: "segmentation" (bool (h, w)), "category_id"
            (0-based), "bbox" (tight, px, x0 y0 x1 y1), "bbox_mode", "iscrowd" 0. The class of a PNG's instance is
            the one that most of its pixels have.
        ignore_mask: bool (h, w), the pixels with label 255; None if there are none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, has lost its palette, or the two do not fit together. Every message names the
            file.
    """
    path = dataset_dict["instance_label_file"]
    if str(path).endswith(".mat"):
        instance_ids, classes = _read_sbd(path)
    else:
        instance_ids = _read_palette_png(path)
        class_ids = _read_palette_png(dataset_dict["class_label_file"])
        if class_ids.shape != instance_ids.shape:
            raise ValueError(
                f"{path} is {instance_ids.shape} px (height, width), {dataset_dict['class_label_file']} is "
                f"{class_ids.shape}: both must come from the same archive"
            )
        classes = _majority_classes(instance_ids, class_ids)
    annotations = []
    for instance_id in np.unique(instance_ids):
        if instance_id in (0, VOID):
            continue
        class_id = classes.get(int(instance_id), 0)
        if not 1 <= class_id <= num_classes:
            raise ValueError(
                f"{path}: instance {instance_id} has {f'class {class_id}' if class_id else 'no class'}; classes are "
                f"1..{num_classes}; {COPY_AGAIN}"
            )
        mask = instance_ids == instance_id
        annotations.append(
            {
                "segmentation": mask,
                "category_id": class_id - 1,
                "bbox": _tight_box(mask),
                "bbox_mode": BoxMode.XYXY_ABS,
                "iscrowd": 0,
            }
        )
    void = instance_ids == VOID
    return annotations, void if void.any() else None


def _read_palette_png(path: str) -> np.ndarray:
    """uint8 (h, w): the palette indices, which are the labels."""
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all four
        raise ValueError(f"cannot read label image {path} ({error}): {COPY_AGAIN}") from error
    if mode != "P":
        raise ValueError(
            f"label image {path} has mode {mode}, not a palette (P): converting it replaced the labels by colours; "
            "use the PNG of the original archive"
        )
    return labels


def _read_sbd(path: str) -> tuple[np.ndarray, dict[int, int]]:
    """uint8 (h, w), and the class (1-based) of every instance id, from GTinst.Segmentation and GTinst.Categories."""
    try:
        with PathManager.open(path, "rb") as file:
            content = loadmat(file, variable_names=["GTinst"])["GTinst"][0, 0]
        labels, categories = np.asarray(content["Segmentation"]), np.asarray(content["Categories"]).ravel()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except Exception as error:  # whatever SciPy makes of malformed input, a struct without these fields included
        raise ValueError(f"cannot read GTinst of {path} ({error!r}): {COPY_AGAIN}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise ValueError(
            f"{path}: GTinst.Segmentation is {labels.dtype} {labels.shape}, no map of integers; {COPY_AGAIN}"
        )
    return labels, {k: int(class_id) for k, class_id in enumerate(categories, start=1)}


def _majority_classes(instance_ids: np.ndarray, class_ids: np.ndarray) -> dict[int, int]:
    """The class id (1-based) with the most pixels under each instance; background and void have no vote."""
    voting = (class_ids != 0) & (class_ids != VOID)
    votes = np.bincount(instance_ids[voting].astype(np.int64) * 256 + class_ids[voting], minlength=256 * 256)
    votes = votes.reshape(256, 256)
    return {int(k): int(votes[k].argmax()) for k in np.flatnonzero(votes.any(axis=1))}


def _tight_box(mask: np.ndarray) -> list[float]:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)]


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"label file {path} does not exist: unpack the archive again, or take the image off the list"
    )
