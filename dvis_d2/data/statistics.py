"""What a network's training data are like: the sizes of images and objects, and their number."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .annotations import read_annotations
from .image_io import probe_image

MAX_LABEL_FILES = 200  # opened at most, evenly chosen, where masks are stored in files


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """Sizes in pixels as stored; triples of numbers are ascending. Crowds are no objects."""

    num_images: int = 0
    num_objects: int = 0
    class_names: tuple[str, ...] = ()
    heights: tuple[float, ...] = (0, 0, 0)  # of the images: least, median, largest
    widths: tuple[float, ...] = (0, 0, 0)
    diameters: tuple[float, ...] = (0, 0, 0)  # 2 sqrt(area / pi) of objects: 5 %, 50 %, 95 %
    relative_diameters: tuple[float, ...] = (0, 0, 0)  # in units of the square root of the image's area: 5, 50, 95 %
    objects_per_image: tuple[float, ...] = (0, 0, 0)  # median, 95 %, largest
    # of a training, network pixels a stored pixel when the images are resized for the test: median; 5 % and 95 %
    scale: float = 0.0
    scale_range: tuple[float, ...] = (0, 0)
    normalize: str = ""  # of a training, INPUT.NORMALIZE

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, as JSON and PyTorch's checkpoints have them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataStatistics":
        """The inverse; unknown names, of a later version, are left out."""
        known = {field.name for field in dataclasses.fields(cls)} & values.keys()
        given: dict[str, Any] = {k: tuple(values[k]) if isinstance(values[k], list) else values[k] for k in known}
        return cls(**given)


def data_statistics(dataset_dicts: Sequence[dict[str, Any]], class_names: Iterable[str] = ()) -> DataStatistics:
    """Of dataset dicts in Detectron2's format. Of data that keep their masks in files, at most `MAX_LABEL_FILES` images
    count. An object in several polygons has the sum of their areas.

    ValueError or FileNotFoundError, naming the file, where a segmentation or a label file cannot be used.
    """
    chosen = [d for d in dataset_dicts if "instance_label_file" not in d]
    in_files = [d for d in dataset_dicts if "instance_label_file" in d]
    chosen += in_files[:: math.ceil(len(in_files) / MAX_LABEL_FILES) or 1]
    sizes = np.array([_size(d) for d in chosen], dtype=np.float64).reshape(-1, 2)
    areas = [object_areas(d, _size(d)) for d in chosen]
    counts = np.array([len(a) for a in areas], dtype=np.int64)
    diameters = 2 * np.sqrt(np.concatenate([np.zeros(0), *areas]) / math.pi)
    relative = diameters / np.repeat(np.sqrt(sizes.prod(axis=1)), counts)
    return DataStatistics(
        num_images=len(chosen),
        num_objects=len(diameters),
        class_names=tuple(class_names),
        heights=_quantiles(sizes[:, 0], (0, 0.5, 1)),
        widths=_quantiles(sizes[:, 1], (0, 0.5, 1)),
        diameters=_quantiles(diameters, (0.05, 0.5, 0.95)),
        relative_diameters=_quantiles(relative, (0.05, 0.5, 0.95)),
        objects_per_image=_quantiles(counts, (0.5, 0.95, 1)),
    )


def training_statistics(cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]) -> DataStatistics:
    """:func:`data_statistics` of a training's images, with the scale at which its test would read them."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    found = data_statistics(dataset_dicts, getattr(metadata, "thing_classes", ()))
    scales = np.array([resize_factor(cfg, _size(d)) for d in dataset_dicts])
    return dataclasses.replace(
        found,
        scale=_quantiles(scales, (0.5,))[0],
        scale_range=_quantiles(scales, (0.05, 0.95)),
        normalize=str(cfg.INPUT.get("NORMALIZE", "")),
    )


def resize_factor(cfg: CfgNode, size: tuple[int, int]) -> float:
    """What the test resize multiplies an image of `size` (height, width) with: ``INPUT.SCALE``, or what makes its sides
    ``MIN_SIZE_TEST`` and at most ``MAX_SIZE_TEST``."""
    if cfg.INPUT.SCALE:
        return float(cfg.INPUT.SCALE)
    if not cfg.INPUT.MIN_SIZE_TEST:
        return 1.0
    return min(cfg.INPUT.MIN_SIZE_TEST / min(size), cfg.INPUT.MAX_SIZE_TEST / max(size))


def object_areas(dataset_dict: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """float64 (n,): pixels of each annotation of an image of `size` (height, width) that is no crowd."""
    segmentations = [a.get("segmentation") for a in read_annotations(dataset_dict)[0] if not a.get("iscrowd", 0)]
    areas = np.zeros(len(segmentations))
    rles: list[dict] = []
    owners: list[int] = []
    for k, segmentation in enumerate(segmentations):
        if isinstance(segmentation, np.ndarray):
            areas[k] = np.count_nonzero(segmentation)
        elif isinstance(segmentation, list):
            polygons = [p for p in segmentation if len(p) >= 6]
            rles += mask_util.frPyObjects(polygons, *size) if polygons else []
            owners += [k] * len(polygons)
        elif isinstance(segmentation, dict):
            uncompressed = isinstance(segmentation["counts"], list)
            rles.append(mask_util.frPyObjects(segmentation, *size) if uncompressed else segmentation)
            owners.append(k)
    np.add.at(areas, owners, mask_util.area(rles) if rles else [])
    return areas


def _size(dataset_dict: dict[str, Any]) -> tuple[int, int]:
    if "height" in dataset_dict and "width" in dataset_dict:
        return dataset_dict["height"], dataset_dict["width"]
    info = probe_image(dataset_dict["file_name"])
    return info.height, info.width


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.quantile(values, shares).tolist()) if len(values) else (0.0,) * len(shares)
