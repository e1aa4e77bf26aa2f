"""The ground truth of one image, from whatever kind of data set, and the predictions that belong to it.

N objects or detections, image size (h, w) as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import polygons_to_bitmask

from ..data.ground_truth import decode_rle
from ..data.image_io import read_ignore_mask
from ..data.label_files import read_instance_labels


@dataclass(frozen=True)
class GroundTruth:
    """`masks` bool (N, h, w), without void pixels; `classes` int64 (N,); `crowd` and `difficult` bool (N,): a region
    of unknown objects, and an object that need not be found; `void` bool (h, w)."""

    masks: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    void: np.ndarray

    @property
    def ignored(self) -> np.ndarray:
        """bool (N,)"""
        return self.crowd | self.difficult


def load_dataset_dicts(dataset_name: str) -> dict[Any, dict[str, Any]]:
    """The dicts of a registered data set by image id. ValueError if an image id occurs twice."""
    entries = DatasetCatalog.get(dataset_name)
    by_id = {entry["image_id"]: entry for entry in entries}
    if len(by_id) < len(entries):
        raise ValueError(f"{dataset_name}: image ids occur twice; give every image its own")
    return by_id


def read_ground_truth(dataset_dict: dict[str, Any]) -> GroundTruth:
    """The ground truth of a dataset dict with "height" and "width".

    Annotations are taken from "annotations" (polygons, RLE or arrays; optional keys "iscrowd" and "difficult") and
    "ignore_mask", or from label files (:mod:`dvis_d2.data.label_files`). Masks without pixels outside of void are
    left out.

    Raises:
        ValueError, FileNotFoundError: an annotation or a label file cannot be used; the message names it.
    """
    size = dataset_dict["height"], dataset_dict["width"]
    file_name = dataset_dict["file_name"]
    if "instance_label_file" in dataset_dict:
        annotations, ignore_mask = read_instance_labels(dataset_dict)
    else:
        annotations, ignore_mask = dataset_dict.get("annotations", []), dataset_dict.get("ignore_mask")
    void = np.zeros(size, dtype=bool) if ignore_mask is None else read_ignore_mask(ignore_mask, *size, file_name)

    masks = [_mask(a.get("segmentation"), size, f"{file_name}, annotation {i}") for i, a in enumerate(annotations)]
    masks = np.array(masks, dtype=bool).reshape(-1, *size) & ~void
    rows = [
        (a["category_id"], a.get("iscrowd", 0) != 0, bool(a.get("difficult", 0)))
        for a, mask in zip(annotations, masks, strict=True)
        if mask.any()
    ]
    classes, crowd, difficult = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return GroundTruth(masks[masks.any(axis=(1, 2))], classes, crowd.astype(bool), difficult.astype(bool), void)


def read_predictions(output: dict[str, Any], size: tuple[int, int], num_classes: int, where: str):
    """What a model gave for one image.

    Args:
        output: "instances" with `pred_masks` (bool (N, h, w)), `scores` and `pred_classes`.
        size: (h, w) that the masks must have.
        num_classes: of the data set; greater class ids are an error.
        where: the image, for error messages.

    Returns:
        masks bool (N, h, w), scores float64 (N,), classes int64 (N,)

    Raises:
        ValueError: the masks have another size, or a class does not exist.
    """
    instances = output["instances"].to("cpu")
    masks = instances.pred_masks.numpy().astype(bool)
    scores = instances.scores.numpy().astype(np.float64)
    classes = instances.pred_classes.numpy().astype(np.int64)
    if masks.shape[1:] != size:
        raise ValueError(f"{where}: predicted masks have size {masks.shape[1:]}, the ground truth has {size}")
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(
            f"{where}: predicted class {classes.max()}, but the data set has {num_classes} classes; "
            "set MODEL.ROI_HEADS.NUM_CLASSES to that, or evaluate on the data set of the training"
        )
    return masks, scores, classes


def _mask(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    if isinstance(segmentation, list) and segmentation:
        return polygons_to_bitmask([np.asarray(p, dtype=np.float64) for p in segmentation], *size)
    if isinstance(segmentation, dict):
        segmentation = decode_rle(segmentation, where)
    if not isinstance(segmentation, np.ndarray) or segmentation.shape != size:
        raise ValueError(f"{where}: it has no mask of the image's size {size}; add a polygon or an RLE")
    return segmentation != 0
