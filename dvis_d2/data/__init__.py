"""Data sets, their checks, the mapper and the loader. Importing this registers the built-in data sets with
Detectron2; they are drawn, or read, on first use."""

import os

from .build import build_train_loader, set_start_iter
from .builtin import register_builtin
from .custom import register_coco_json, register_from_config
from .dataset_mapper import DVISDatasetMapper
from .pascal import register_pascal
from .report import DatasetError, Report
from .samplers import ResumableTrainingSampler
from .shapes import draw_image
from .shapes_dataset import write_shapes
from .validation import check_coco_json

__all__ = [
    "DVISDatasetMapper",
    "DatasetError",
    "Report",
    "ResumableTrainingSampler",
    "build_train_loader",
    "check_coco_json",
    "draw_image",
    "register_coco_json",
    "register_from_config",
    "set_start_iter",
    "write_shapes",
]

register_builtin()
register_pascal(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
