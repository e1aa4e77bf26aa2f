"""What a network's training data are like: the sizes of images and objects, their number, the type of the pixels."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode

from .annotations import read_annotations, to_rle
from .image_io import probe_image
from .rle import checked_runs
from .scaling import DataStatistics, resize_factor

MAX_HEADERS = 100  # of image files that are read, evenly chosen
MAX_LABEL_FILES = 200  # opened at most, evenly chosen, where masks are stored in files


def data_statistics(dataset_dicts: Sequence[dict[str, Any]]) -> DataStatistics:
    """Of the dataset dicts in Detectron2's format that have "height" and "width"; of those with masks in files, at most
    `MAX_LABEL_FILES` count. An object in several polygons has the area of their union.

    ValueError or FileNotFoundError, naming the file, where a segmentation or a label file cannot be used.
    """
    of_size = [d for d in dataset_dicts if "height" in d and "width" in d]
    in_files = [d for d in of_size if "instance_label_file" in d]
    chosen = [d for d in of_size if "instance_label_file" not in d]
    chosen += in_files[:: math.ceil(len(in_files) / MAX_LABEL_FILES) or 1]
    heights, widths = (np.array([d[side] for d in chosen]) for side in ("height", "width"))
    areas = [_object_areas(d) for d in chosen]
    counts = np.array([len(a) for a in areas], dtype=np.int64)
    diameters = 2 * np.sqrt(np.concatenate([np.zeros(0), *areas]) / math.pi)
    return DataStatistics(
        num_images=len(chosen),
        num_objects=len(diameters),
        heights=_quantiles(heights, 0, 0.5, 1),
        widths=_quantiles(widths, 0, 0.5, 1),
        diameters=_quantiles(diameters, 0.05, 0.5, 0.95),
        relative_diameters=_quantiles(diameters / np.repeat(np.sqrt(heights * widths), counts), 0.05, 0.5, 0.95),
        objects_per_image=_quantiles(counts, 0.5, 0.95, 1),
    )


def training_statistics(cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]) -> DataStatistics:
    """:func:`data_statistics` of a training's images, with the scale at which its test would read them."""
    sizes = [(d["height"], d["width"]) for d in dataset_dicts if "height" in d and "width" in d]
    scales = np.array([resize_factor(cfg, size) for size in sizes])
    low, scale, high = _quantiles(scales, 0.05, 0.5, 0.95)
    (canvas,) = _quantiles(scales * [max(size) for size in sizes], 0.95)
    dtypes = set()
    for dataset_dict in dataset_dicts[:: math.ceil(len(dataset_dicts) / MAX_HEADERS) or 1]:
        with contextlib.suppress(OSError, ValueError):  # who reads the pixels tells
            dtypes.add(probe_image(dataset_dict["file_name"]).dtype)
    values: dict[str, Any] = {"scale": scale, "scale_range": (low, high), "canvas": canvas}
    values |= {"dtypes": tuple(sorted(dtypes)), "normalize": cfg.INPUT.NORMALIZE}
    return dataclasses.replace(data_statistics(dataset_dicts), **values)


def _object_areas(dataset_dict: dict[str, Any]) -> list[float]:
    """Pixels of each annotation of an image that has a segmentation and is no crowd."""
    size, where = (dataset_dict["height"], dataset_dict["width"]), str(dataset_dict.get("file_name"))
    objects = [a for a in read_annotations(dataset_dict)[0] if not a.get("iscrowd", 0)]
    return [_area(a["segmentation"], size, where) for a in objects if a.get("segmentation") is not None]


def _area(segmentation: Any, size: tuple[int, int], where: str) -> float:
    if isinstance(segmentation, dict):
        return float(checked_runs(segmentation, where)[1::2].sum())
    if isinstance(segmentation, list) and all(len(polygon) < 6 for polygon in segmentation):
        return 0.0
    return float(mask_util.area(to_rle(segmentation, size, where)))


def _quantiles(values: np.ndarray, *shares: float) -> tuple[float, ...]:
    return tuple(np.quantile(values, shares).tolist()) if len(values) else (0.0,) * len(shares)
