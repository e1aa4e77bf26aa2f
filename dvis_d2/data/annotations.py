"""The annotations of one image, from whatever source, and their segmentations, of whatever kind.

A segmentation is a list of polygons ([x, y, x, y, ...] in px), a COCO RLE, or an array (h, w) that is not 0 on the
object. (h, w) is the image as stored; `where` names the annotation in error messages.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils
from detectron2.structures import polygons_to_bitmask

from .label_files import read_instance_labels

NO_SEGMENTATION = "it has no segmentation; add a polygon or an RLE, or take it out"


def read_annotations(dataset_dict: dict[str, Any]) -> tuple[list[dict[str, Any]], np.ndarray | None]:
    """The annotations of a dataset dict in Detectron2's format, and its pixels that belong to nobody, bool (h, w) or
    None. They come from "annotations" and "ignore_mask" (a segmentation, or the path of an image file, not 0 where
    pixels are ignored), or from the files that "instance_label_file" names (:mod:`.label_files`). ValueError or
    FileNotFoundError, naming the file, where the ignore mask or a label file cannot be used."""
    if "instance_label_file" in dataset_dict:
        return read_instance_labels(dataset_dict)
    annotations, ignored = dataset_dict.get("annotations", []), dataset_dict.get("ignore_mask")
    if ignored is None:
        return annotations, None
    if isinstance(ignored, str):
        pixels = detection_utils.read_image(ignored)
        ignored = pixels.any(axis=2) if pixels.ndim == 3 else pixels
    size = dataset_dict["height"], dataset_dict["width"]
    return annotations, to_mask(ignored, size, f"{dataset_dict['file_name']}, ignore_mask")


def to_mask(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """bool (h, w) of a segmentation. ValueError if there is none, if it is broken, or if its size is not `size`."""
    if isinstance(segmentation, list):
        return polygons_to_bitmask([p.ravel() for p in polygon_points(segmentation, where)], *size)
    if not isinstance(segmentation, dict | np.ndarray):
        raise ValueError(f"{where}: {NO_SEGMENTATION}")
    mask = decode_rle(segmentation, where).view(bool) if isinstance(segmentation, dict) else segmentation != 0
    if mask.shape != tuple(size):
        raise ValueError(f"{where}: its mask has shape {mask.shape}, the image {tuple(size)}")
    return mask


def polygon_points(polygons: list, where: str) -> list[np.ndarray]:
    """The vertices, float64 (P, 2), of the polygons that have at least three. ValueError if none has."""
    if not polygons:
        raise ValueError(f"{where}: {NO_SEGMENTATION}")
    points = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons if len(p) >= 6 and len(p) % 2 == 0]
    if not points or not all(np.isfinite(p).all() for p in points):
        raise ValueError(f"{where}: a polygon needs at least 3 points, an even number of values, all finite")
    return points


def encode_masks(masks: np.ndarray | torch.Tensor) -> list[dict]:
    """COCO RLE ("size": [H, W], "counts": bytes) of each of the bool (N, H, W) masks."""
    array = masks.detach().cpu().numpy() if isinstance(masks, torch.Tensor) else masks
    return mask_util.encode(np.asfortranarray(array.transpose(1, 2, 0), dtype=np.uint8))


def decode_rle(rle: dict, where: str) -> np.ndarray:
    """uint8 (h, w), 0 or 1, of a COCO RLE, compressed or not. ValueError, naming `where`, if it is broken."""
    try:
        if isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(rle, *rle["size"])
        return mask_util.decode(rle)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: its RLE cannot be decoded ({error!r}); write the mask again") from error
