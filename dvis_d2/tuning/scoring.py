"""COCO mask AP of detections on a subset of a data set, fast enough to be called a hundred times."""

import contextlib
import copy
import io
from collections.abc import Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.to_coco import to_coco


class CocoScorer:
    """Mask AP by COCOeval, over all object sizes with at most 100 detections an image, as COCO's "AP"."""

    def __init__(self, dataset_name: str, *, class_agnostic: bool = False):
        """
        Args:
            dataset_name: registered in Detectron2; its ``json_file`` is the ground truth, or else its dicts are.
            class_agnostic: any detection may be any object, whatever their classes.
        """
        self.class_agnostic = class_agnostic
        metadata = MetadataCatalog.get(dataset_name)
        if hasattr(metadata, "json_file"):
            with contextlib.redirect_stdout(io.StringIO()):
                self.truth = COCO(metadata.json_file)
            to_contiguous = metadata.thing_dataset_id_to_contiguous_id
            self._category_ids = {contiguous: category for category, contiguous in to_contiguous.items()}
        else:
            self.truth = _without_json(dataset_name)
            self._category_ids = {k: k + 1 for k in range(len(metadata.thing_classes))}

    def evaluate(self, detections: Sequence[list[dict]], image_ids: Sequence[int]) -> COCOeval:
        """Match the detections of :meth:`StoredPredictions.detections` on `image_ids`; others are left out."""
        wanted = set(image_ids)
        results = [
            detection | {"category_id": self._category_ids[detection["category_id"]]}
            for of_image in detections
            for detection in of_image
            if detection["image_id"] in wanted
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOeval(self.truth, self.truth.loadRes(results) if results else COCO(), "segm")
            evaluator.params.imgIds = list(image_ids)
            evaluator.params.useCats = int(not self.class_agnostic)
            evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluator.params.maxDets = [100]
            evaluator.evaluate()
        return evaluator


def _without_json(dataset_name: str) -> COCO:
    """Ground truth from a data set's dicts, with its own image ids; ignored pixels are crowds."""
    data = to_coco(dataset_name, ignore_as_crowd=True)
    own_ids = {image["id"]: image["original_id"] for image in data["images"]}
    for image in data["images"]:
        image["id"] = image["original_id"]
    for annotation in data["annotations"]:
        annotation["image_id"] = own_ids[annotation["image_id"]]
    truth = COCO()
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def average_precision(evaluator: COCOeval, *, iou: float | None = None, sample: Sequence[int] | None = None) -> float:
    """AP in 0..100.

    Args:
        evaluator: of :meth:`CocoScorer.evaluate`.
        iou: one of .5, .55, ..., .95; None: their mean.
        sample: positions among the evaluated images, which may repeat (a bootstrap sample); None: each once.

    Returns:
        the mean over the categories that occur; 0 where none does.
    """
    resampled = copy.copy(evaluator)
    if sample is not None:
        count = len(evaluator.params.imgIds)
        blocks = range(0, len(evaluator.evalImgs), count)  # one for each category
        resampled.evalImgs = [evaluator.evalImgs[start + i] for start in blocks for i in sample]
    with contextlib.redirect_stdout(io.StringIO()):
        resampled.accumulate()
    precision = resampled.eval["precision"]
    if iou is not None:
        precision = precision[np.isclose(evaluator.params.iouThrs, iou)]
    precision = precision[precision > -1]
    return 100 * float(precision.mean()) if precision.size else 0.0
