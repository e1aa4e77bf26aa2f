"""Average precision of masks as PASCAL and SDS / SBD define it (AP^r; the paper's Tables 1, 2 and 7).

D detections, G objects, C classes, T IoU thresholds.
"""

import logging

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation.pascal_voc_evaluation import voc_ap

from ..data.annotations import encode_masks
from .mask_evaluator import GroundTruth, MaskEvaluator

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1
THRESHOLDS = np.arange(1, 10) / 10
METRICS = ("AP50", "AP60", "AP70", "AP80", "AP90", "APavg")  # what the paper reports; the last is over all thresholds
Record = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
logger = logging.getLogger(__name__)


class APrEvaluator(MaskEvaluator):
    """AP^r of a model at IoU .1, .2, ..., .9, averaged over the classes that have objects.

    Void pixels (PASCAL's label 255, "ignore_mask") are taken out of predicted and true masks before the IoU. A
    detection counts neither way if it lies in void pixels altogether, or matches a crowd ("iscrowd": 1) or an object
    marked "difficult": 1. For a crowd, the intersection is divided by the detection's area.
    """

    def judge(self, masks: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: GroundTruth) -> Record:
        """The detections' classes (D,), scores (D,) and outcomes (D, T); the number of objects (C,)."""
        valid = masks & ~truth.void
        void_only = masks.any(axis=(1, 2)) & ~valid.any(axis=(1, 2))
        detected, objects = encode_masks(valid), encode_masks(truth.masks)
        outcomes = np.empty((len(masks), len(THRESHOLDS)), dtype=np.int8)
        for class_id in np.unique(classes):
            own, same = np.flatnonzero(classes == class_id), np.flatnonzero(truth.classes == class_id)
            overlaps = np.zeros((len(own), len(same)))
            if len(same):
                crowd = truth.crowd[same].astype(np.uint8)
                overlaps = mask_util.iou([detected[i] for i in own], [objects[i] for i in same], crowd)
            overlaps = np.nan_to_num(overlaps)  # 0 / 0 where a detection has no valid pixels
            outcomes[own] = match_detections(overlaps, scores[own], truth.ignored[same], THRESHOLDS, void_only[own])
        num_objects = np.bincount(truth.classes[~truth.ignored], minlength=len(self.class_names))
        return classes, scores, outcomes, num_objects

    def summarize(self, records: list[Record]) -> dict[str, dict[str, float]]:
        """{"ap_r": {"AP50", "AP60", ..., "AP90", "APavg" (over .1 to .9), "AP50-<class>", "APavg-<class>"}} in percent,
        NaN where there are no objects."""
        if len(records) != len(self._entries):
            logger.warning("AP^r of %d images, %s has %d", len(records), self.dataset_name, len(self._entries))
        no_objects = np.zeros(len(self.class_names), int)
        # first, since there may be no image
        nothing = np.empty(0, int), np.empty(0), np.empty((0, len(THRESHOLDS)), np.int8), no_objects
        *of_detections, num_objects = zip(nothing, *records, strict=True)
        classes, scores, outcomes = map(np.concatenate, of_detections)
        counts, table = np.sum(num_objects, axis=0), []
        for class_id, count in enumerate(counts):
            own = classes == class_id
            ap = [100 * pascal_average_precision(scores[own], outcome, count) for outcome in outcomes[own].T]
            table.append([*ap[4:], float(np.mean(ap))])
        means = np.mean(np.array(table)[counts > 0], axis=0) if counts.any() else np.full(len(METRICS), np.nan)
        results = dict(zip(METRICS, means.tolist(), strict=True))
        for name, row in zip(self.class_names, table, strict=True):
            results |= {f"AP50-{name}": row[0], f"APavg-{name}": row[-1]}
        return {"ap_r": results}


def match_detections(
    overlaps: np.ndarray, scores: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray, void_only: np.ndarray
) -> np.ndarray:
    """Assign the detections of one class in one image to its objects, greedily by descending score.

    By VOC's rule a detection stands for the object it overlaps most, even if a second object would do. Detections that
    are not right, but reach an ignored object, count neither way; nor do `void_only` ones, bool (D,).

    From overlaps float (D, G) in 0..1, scores float (D,), `ignored` bool (G,), crowds and difficult objects, and
    thresholds float (T,): TRUE_POSITIVE, FALSE_POSITIVE or IGNORED, int8 (D, T), in the order of the input.
    """
    result = np.full((len(scores), len(thresholds)), FALSE_POSITIVE, dtype=np.int8)
    objects = overlaps[:, ~ignored]
    region_overlap = overlaps[:, ignored].max(axis=1, initial=0)
    neither = (region_overlap[:, None] >= thresholds) & (region_overlap[:, None] > 0)
    taken = np.zeros((objects.shape[1], len(thresholds)), dtype=bool)
    for d in np.argsort(-scores, kind="stable"):
        if objects.shape[1]:
            best = objects[d].argmax()
            right = (objects[d, best] >= thresholds) & ~taken[best]
            taken[best] |= right
            result[d, right] = TRUE_POSITIVE
        result[d, (result[d] != TRUE_POSITIVE) & (neither[d] | void_only[d])] = IGNORED
    return result


def pascal_average_precision(scores: np.ndarray, outcomes: np.ndarray, num_objects: int) -> float:
    """Area under the precision-recall curve, made monotone, over all its points (VOC 2010 and later, SDS), 0..1.

    Of one class in all images: scores float (D,), of which equal ones keep their order, the outcomes (D,) that
    :func:`match_detections` gives, and the number of objects that are not ignored; NaN if there are none.
    """
    if num_objects == 0:
        return float("nan")
    outcomes = outcomes[np.argsort(-scores, kind="stable")]
    outcomes = outcomes[outcomes != IGNORED]
    true_positives = np.cumsum(outcomes == TRUE_POSITIVE)
    return float(voc_ap(true_positives / num_objects, true_positives / np.arange(1, len(outcomes) + 1)))
