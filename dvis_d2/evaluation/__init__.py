"""Which evaluator a data set gets, and those beyond Detectron2's: AP^r and contour F1, for PASCAL VOC, SBD or any data
set with instance masks, and average recall on seen and unseen classes."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from .ap_r_evaluator import APrEvaluator
from .average_precision import average_precision, match_detections
from .coco_submission import COCOSubmissionEvaluator
from .contour_evaluator import ContourF1Evaluator
from .contour_f1 import contour_precision_recall
from .old_numpy import NumPy2CityscapesEvaluator, NumPy2LVISEvaluator
from .packages import require_packages
from .unseen_evaluator import UnseenEvaluator

__all__ = [
    "APrEvaluator",
    "COCOSubmissionEvaluator",
    "ContourF1Evaluator",
    "NumPy2CityscapesEvaluator",
    "NumPy2LVISEvaluator",
    "UnseenEvaluator",
    "average_precision",
    "build_evaluators",
    "contour_precision_recall",
    "ignores_classes",
    "match_detections",
    "require_packages",
]


def build_evaluators(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator that a data set's metadata ask for as `evaluator_type`.

    Args:
        cfg: reads `TEST.DETECTIONS_PER_IMAGE`; where it is above COCO's 100, COCO's AP counts them all; and
            `DATASETS.SEEN_CLASSES` and `DATASETS.CLASS_AGNOSTIC`.
        dataset_name: a registered data set.
        output_folder: where predictions and tables are written.

    Returns:
        With either `DATASETS` key, whatever the type: average recall on seen and unseen classes, and AP of all masks as
        one class. Otherwise, for "pascal_instance": AP^r and contour F1; "lvis": LVIS's box and mask AP;
        "cityscapes_instance": Cityscapes' mask AP; "coco", and data sets that name none: COCO's box and mask AP, or,
        without annotations, the file for its evaluation server.

    Raises:
        NotImplementedError: for any other type.
        ImportError: a package that the data set needs is missing.
        dvis_d2.data.DatasetError: a seen class does not exist.
    """
    require_packages([dataset_name])
    if ignores_classes(cfg):
        return UnseenEvaluator(dataset_name, cfg.DATASETS.SEEN_CLASSES)
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    # The tasks are named so that a model that finds nothing gets a result too.
    tasks = ("bbox", "segm")
    if evaluator_type == "pascal_instance":
        return DatasetEvaluators([APrEvaluator(dataset_name, output_folder), ContourF1Evaluator(dataset_name)])
    if evaluator_type == "lvis":
        return NumPy2LVISEvaluator(dataset_name, tasks, output_dir=output_folder)
    if evaluator_type == "cityscapes_instance":
        return NumPy2CityscapesEvaluator(dataset_name)
    if evaluator_type == "coco":
        max_dets = max(100, cfg.TEST.DETECTIONS_PER_IMAGE)
        return COCOSubmissionEvaluator(dataset_name, tasks, output_dir=output_folder, max_dets_per_image=max_dets)
    raise NotImplementedError(
        f"data set {dataset_name} asks for evaluator {evaluator_type!r}; there are 'coco', 'lvis', "
        "'cityscapes_instance' and 'pascal_instance'"
    )


def ignores_classes(cfg: CfgNode) -> bool:
    """Whether evaluation does not look at predicted classes: some were not seen, or the model has none."""
    return bool(cfg.DATASETS.SEEN_CLASSES) or cfg.DATASETS.CLASS_AGNOSTIC
