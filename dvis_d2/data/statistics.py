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

MAX_HEADERS = 100  # of image files that are read, evenly chosen
MAX_LABEL_FILES = 200  # opened at most, evenly chosen, where masks are stored in files


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """Sizes in pixels as stored; triples of numbers are ascending. Crowds are no objects."""

    num_images: int = 0
    num_objects: int = 0
    heights: tuple[float, ...] = (0, 0, 0)  # of the images: least, median, largest
    widths: tuple[float, ...] = (0, 0, 0)
    diameters: tuple[float, ...] = (0, 0, 0)  # 2 sqrt(area / pi) of objects: 5 %, 50 %, 95 %
    relative_diameters: tuple[float, ...] = (0, 0, 0)  # in units of the square root of the image's area: 5, 50, 95 %
    objects_per_image: tuple[float, ...] = (0, 0, 0)  # median, 95 %, largest
    # of a training, network pixels a stored pixel when the images are resized for the test: median; 5 % and 95 %
    scale: float = 0.0
    scale_range: tuple[float, ...] = (0, 0)
    canvas: float = 0.0  # longest side of 95 % of the images then, in network pixels
    dtypes: tuple[str, ...] = ()  # of the stored pixels, "uint8", "uint16", ...
    normalize: str = ""  # INPUT.NORMALIZE

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, as JSON and PyTorch's checkpoints have them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataStatistics":
        """The inverse; unknown names, of another version, are left out."""
        known = {field.name for field in dataclasses.fields(cls)} & values.keys()
        given: dict[str, Any] = {k: tuple(values[k]) if isinstance(values[k], list) else values[k] for k in known}
        return cls(**given)


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


def other_pixels(statistics: DataStatistics | None, dtype: str, normalize: str) -> str:
    """What to warn of where pixels of `dtype` become other 8 bits, by INPUT.NORMALIZE, than those of the training."""
    known, plain = set(statistics.dtypes if statistics else ()), {"uint8", "bool"}
    found = f"there are {dtype} pixels, those of the training were {', '.join(sorted(known))}"
    if normalize == "none" and known and known <= plain and dtype not in plain:
        return f"{found}, and nothing stretches them: INPUT.NORMALIZE auto does"
    if normalize == "auto" and known and not known & plain and dtype in plain:
        return f"{found} and stretched: INPUT.NORMALIZE percentile stretches these too"
    return ""


def resize_factor(cfg: CfgNode, size: tuple[int, int]) -> float:
    """What the test resize multiplies an image of `size` (height, width) with: ``INPUT.SCALE``, or what makes its sides
    ``MIN_SIZE_TEST`` and at most ``MAX_SIZE_TEST``."""
    if cfg.INPUT.SCALE or not cfg.INPUT.MIN_SIZE_TEST:
        return float(cfg.INPUT.SCALE or 1)
    return min(cfg.INPUT.MIN_SIZE_TEST / min(size), cfg.INPUT.MAX_SIZE_TEST / max(size))


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
