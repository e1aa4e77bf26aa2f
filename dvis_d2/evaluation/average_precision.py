"""Average precision of masks as PASCAL and the SDS / SBD evaluation define it (AP^r), as pure functions of arrays.

D detections, G objects, T IoU thresholds.
"""

from __future__ import annotations

import numpy as np

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1


def match_detections(
    overlaps: np.ndarray, scores: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray, void_only: np.ndarray
) -> np.ndarray:
    """Assign the detections of one class in one image to its objects, greedily by descending score.

    The rule of the VOC development kit: a detection stands for the object it overlaps most. It is right if that
    overlap reaches the threshold and no earlier detection took the object, otherwise it is wrong, even if a second
    object would do. Objects that are `ignored` do not take part; a detection that is not right, but overlaps one of
    them by the threshold, counts neither way, and any number of detections may do so.

    Args:
        overlaps: float (D, G) in 0..1: intersection over union, or over the detection's area for crowds.
        scores: float (D,). Equal scores keep their order.
        ignored: bool (G,), crowds and difficult objects.
        thresholds: float (T,).
        void_only: bool (D,), detections that lie in ignored pixels altogether; they count neither way.

    Returns:
        int8 (D, T): TRUE_POSITIVE, FALSE_POSITIVE or IGNORED, in the order of the input.
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


def average_precision(scores: np.ndarray, outcomes: np.ndarray, num_objects: int) -> float:
    """Area under the precision-recall curve, made monotone, over all its points (VOC 2010 and later, SDS).

    Args:
        scores: float (D,), of the detections of one class in all images. Equal scores keep their order.
        outcomes: int (D,): see :func:`match_detections`.
        num_objects: number of objects of the class that are not ignored.

    Returns:
        0..1; NaN if there are no objects.
    """
    if num_objects == 0:
        return float("nan")
    outcomes = outcomes[np.argsort(-scores, kind="stable")]
    outcomes = outcomes[outcomes != IGNORED]
    true_positives = np.cumsum(outcomes == TRUE_POSITIVE)
    precision = true_positives / np.arange(1, len(outcomes) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(true_positives / num_objects, prepend=0.0) * envelope))
