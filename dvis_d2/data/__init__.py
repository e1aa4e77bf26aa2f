"""Data sets, their checks, the mapper and the loader. Importing this registers the built-in data sets with
Detectron2; they are drawn, or read, on first use."""

from .._detectron2 import has_detectron2

if has_detectron2():
    from .build import build_train_loader, loaded_dicts, set_start_iter
    from .builtin import PRESETS, register_builtin, write_shapes
    from .custom import register_coco_json, register_from_config
    from .dataset_errors import DatasetError
    from .dataset_mapper import DVISDatasetMapper
    from .shapes import draw_image
    from .to_coco import complete_coco
    from .validation import Report, check_coco_json

    register_builtin()
