"""The annotations of one image, from whatever source, and their segmentations, of whatever kind.

A segmentation is a list of polygons ([x, y, x, y, ...] in px), a COCO RLE, or an array (h, w) that is not 0 on the
object. (h, w) is the image as stored; `where` names the annotation in error messages.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils

from .label_files import read_instance_labels
from .polygons import NO_SEGMENTATION, polygon_points, polygons_to_rle
from .rle import decode_rle


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
        return mask_util.decode(to_rle(segmentation, size, where)).view(bool)
    if not isinstance(segmentation, dict | np.ndarray):
        raise ValueError(f"{where}: {NO_SEGMENTATION}")
    shape = segmentation.shape if isinstance(segmentation, np.ndarray) else segmentation.get("size", size)
    shape = tuple(shape) if isinstance(shape, list) else shape
    if shape != tuple(size):  # before anything of that size is made
        raise ValueError(f"{where}: its mask has shape {shape}, the image {tuple(size)}")
    return segmentation != 0 if isinstance(segmentation, np.ndarray) else decode_rle(segmentation, where).view(bool)


def to_rle(segmentation: Any, size: tuple[int, int], where: str) -> dict:
    """COCO's RLE, compressed, of a segmentation. ValueError as by :func:`to_mask`. Polygons are not drawn for it, and
    an RLE whose counts are bytes is pycocotools' own, and returned."""
    if isinstance(segmentation, list):
        return polygons_to_rle(polygon_points(segmentation, where), *size, where)
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), bytes):
        return segmentation
    return encode_masks(to_mask(segmentation, size, where)[None])[0]


def encode_masks(masks: np.ndarray | torch.Tensor) -> list[dict]:
    """COCO RLE ("size": [H, W], "counts": bytes) of each of the bool (N, H, W) masks."""
    array = masks.detach().cpu().numpy() if isinstance(masks, torch.Tensor) else masks
    return mask_util.encode(np.asfortranarray(array.transpose(1, 2, 0), dtype=np.uint8))
