"""F1 of contours within a distance (supplement 3, Table 8; after Csurka et al., BMVC 2013).

As in the paper, distances are < theta, contours are those of the classes ("semantic contour"), P and R are averaged
over an image's classes before F1, and F1 over the images; docs/guide/evaluation.md says where its formula is amended.
"""

import logging

import cv2
import numpy as np

from .mask_evaluator import GroundTruth, MaskEvaluator

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)
logger = logging.getLogger(__name__)


class ContourF1Evaluator(MaskEvaluator):
    """Mean over the images of the F1 of class contours. The mask of a class is the union of its detections, and of its
    objects. Crowds and difficult objects are void. Images without detections and objects are left out."""

    def __init__(self, dataset_name: str, *, thresholds: tuple[float, ...] = (1, 5, 10), score_threshold: float = 0.5):
        """Distances in px. Less certain detections are left out. (The paper does not say which it draws.)"""
        super().__init__(dataset_name)
        self.thresholds = thresholds
        self.score_threshold = score_threshold

    def judge(
        self, masks: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: GroundTruth
    ) -> np.ndarray | None:
        """F1, precision and recall (3, T); None if there is nothing to judge."""
        kept = scores >= self.score_threshold
        scored = image_precision_recall(masks[kept], classes[kept], truth, np.asarray(self.thresholds))
        return None if scored is None else np.stack([f1(*scored), *scored])

    def summarize(self, records: list[np.ndarray | None]) -> dict[str, dict[str, float]]:
        """{"contour": {"F1@1", "P@1", "R@1", ...}}, in percent, for each threshold; NaN without images."""
        scored = [record for record in records if record is not None]
        means = 100 * np.mean(scored, axis=0) if scored else np.full((3, len(self.thresholds)), np.nan)
        names = [f"{name}@{threshold:g}" for name in ("F1", "P", "R") for threshold in self.thresholds]
        results = dict(zip(names, means.ravel().tolist(), strict=True))
        logger.info("Contours in %d images: %s", len(scored), results)
        return {"contour": results}


def image_precision_recall(
    masks: np.ndarray, classes: np.ndarray, truth: GroundTruth, thresholds: np.ndarray
) -> np.ndarray | None:
    """Precision and recall (2, T) of one image, averaged over the classes that occur in it; None if there is none. A
    class that is predicted and does not occur is left out if it lies in void pixels altogether."""
    objects = ~truth.ignored
    void = truth.void | truth.masks[truth.ignored].any(axis=0)
    scores = []
    for class_id in np.union1d(classes, truth.classes[objects]):
        predicted = masks[classes == class_id].any(axis=0)
        true = truth.masks[objects & (truth.classes == class_id)].any(axis=0)
        if true.any() or (predicted & ~void).any():
            scores.append(contour_precision_recall(predicted, true, thresholds, void))
    return np.mean(scores, axis=0) if scores else None


def contour_precision_recall(
    predicted: np.ndarray, true: np.ndarray, thresholds: np.ndarray, void: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall, float64 (T,) in 0..1: the share of the contour points of one bool (h, w) mask that are
    closer to the other's than each threshold, in px between pixel centers; 0 if one of the masks is empty. Predicted
    points in `void` (bool (h, w)) that are near no true point count neither way."""
    predicted_points, true_points = contour(predicted), contour(true)
    if not predicted_points.any() or not true_points.any():
        return np.zeros(len(thresholds)), np.zeros(len(thresholds))
    near_true = _distance_to(true_points)[predicted_points][:, None] < thresholds
    near_predicted = _distance_to(predicted_points)[true_points][:, None] < thresholds
    judged = near_true | ~void[predicted_points][:, None]
    return near_true.sum(axis=0) / np.maximum(judged.sum(axis=0), 1), near_predicted.mean(axis=0)


def contour(mask: np.ndarray) -> np.ndarray:
    """bool (h, w): the pixels of a bool mask that have a 4-neighbor outside of it, or lie at the picture's edge."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & (cv2.erode(padded, CROSS)[1:-1, 1:-1] == 0)


def _distance_to(points: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~points).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
