"""Contour F1 of a model on any registered data set with instance masks (the metric of the paper's Table 8)."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .contour_f1 import contour_precision_recall, f1
from .ground_truth import GroundTruth, load_dataset_dicts, read_ground_truth, read_predictions

logger = logging.getLogger(__name__)


class ContourF1Evaluator(DatasetEvaluator):
    """Mean over the images of the F1 of class contours; :mod:`dvis_d2.evaluation.contour_f1` defines it.

    The mask of a class is the union of its detections, and of its objects. Crowds and difficult objects are void.
    Images in which neither occurs are left out. Runs in any number of processes.
    """

    def __init__(self, dataset_name: str, *, thresholds: tuple[float, ...] = (1, 5, 10), score_threshold: float = 0.5):
        """
        Args:
            dataset_name: a registered data set; its metadata have `thing_classes`.
            thresholds: px; a distance must be less.
            score_threshold: detections below it are left out. (The paper does not say which it draws.)
        """
        self.num_classes = len(MetadataCatalog.get(dataset_name).thing_classes)
        self.thresholds = thresholds
        self.score_threshold = score_threshold
        self._dicts = load_dataset_dicts(dataset_name)
        self._positions = {image_id: k for k, image_id in enumerate(self._dicts)}
        self.reset()

    def reset(self) -> None:
        self._records: list[tuple[int, np.ndarray]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As :meth:`dvis_d2.evaluation.ap_r_evaluator.APrEvaluator.process`."""
        for given, output in zip(inputs, outputs, strict=True):
            entry = self._dicts[given["image_id"]]
            truth = read_ground_truth(entry)
            masks, scores, classes = read_predictions(output, truth.void.shape, self.num_classes, entry["file_name"])
            kept = scores >= self.score_threshold
            scored = image_precision_recall(masks[kept], classes[kept], truth, np.asarray(self.thresholds))
            if scored is not None:
                self._records.append((self._positions[given["image_id"]], np.stack([*scored, f1(*scored)])))

    def evaluate(self) -> OrderedDict:
        """Gathers from all processes, so all must call it.

        Returns:
            {"contour": {"F1@1", "P@1", "R@1", ...}}, in percent, for each threshold; NaN without images; empty in
            other processes than the first.
        """
        gathered = comm.gather(self._records, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        # In the data set's order, so that rounding does not depend on the number of processes.
        records = sorted(itertools.chain(*gathered), key=lambda record: record[0])
        means = np.full((3, len(self.thresholds)), np.nan)
        if records:
            means = 100 * np.mean([values for _, values in records], axis=0)
        results = OrderedDict(
            (f"{name}@{threshold:g}", float(means[row, column]))
            for row, name in ((2, "F1"), (0, "P"), (1, "R"))
            for column, threshold in enumerate(self.thresholds)
        )
        logger.info("Contours in %d images: %s", len(records), results)
        return OrderedDict(contour=results)


def image_precision_recall(
    masks: np.ndarray, classes: np.ndarray, truth: GroundTruth, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Precision and recall of one image, averaged over the classes that occur in it.

    Args:
        masks: bool (D, h, w), of the detections; classes: int64 (D,).
        truth: of the same image.
        thresholds: float (T,), px.

    Returns:
        precision, recall: float64 (T,), 0..1; None if there are neither objects nor detections. A class that is
        predicted and does not occur is left out if it lies in void pixels altogether.
    """
    objects = ~truth.ignored
    void = truth.void | truth.masks[truth.ignored].any(axis=0)
    scores = []
    for class_id in np.union1d(classes, truth.classes[objects]):
        predicted = masks[classes == class_id].any(axis=0)
        true = truth.masks[objects & (truth.classes == class_id)].any(axis=0)
        if true.any() or (predicted & ~void).any():
            scores.append(contour_precision_recall(predicted, true, thresholds, void))
    if not scores:
        return None
    precision, recall = np.mean(scores, axis=0)
    return precision, recall
