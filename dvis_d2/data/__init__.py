"""Data sets, their checks, the mapper and the loader. Importing this registers the built-in data sets with
Detectron2; they are drawn, or read, on first use."""

from .annotations import read_annotations, to_mask
from .build import build_train_loader, set_start_iter
from .builtin import PRESETS, register_builtin, write_shapes
from .custom import register_coco_json, register_from_config
from .dataset_mapper import DVISDatasetMapper
from .report import DatasetError, Report
from .shapes import draw_image
from .to_coco import complete_coco
from .validation import check_coco_json

__all__ = [
    "PRESETS",
    "DVISDatasetMapper",
    "DatasetError",
    "Report",
    "build_train_loader",
    "check_coco_json",
    "complete_coco",
    "draw_image",
    "read_annotations",
    "register_coco_json",
    "register_from_config",
    "set_start_iter",
    "to_mask",
    "write_shapes",
]

register_builtin()
