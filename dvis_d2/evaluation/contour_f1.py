"""F1 of contours within a distance (supplement 3, Table 8; after Csurka et al., BMVC 2013).

The paper's formula cannot be computed as it stands:

- Its recall R counts the same predicted points z as its precision P, with >= in place of <, so that R = 1 - P
  whatever the ground truth. Here R is the share of the *true* contour's points that are closer than theta to the
  predicted contour, as Csurka et al. define it.
- Its inner mean runs over the M objects of a class, but what is compared with theta is the distance of a contour
  point. Here it runs over the contour points.
- C is the number of all supported categories, so every absent class would lower the score (one class of 20, found
  perfectly, would give 0.05). Here C is the number of classes that occur in the image's ground truth or prediction; a
  class that occurs in one of them only has P = R = 0.

Kept as in the paper: distances < theta, not <=; contours are those of the classes ("semantic contour"), not of single
objects; P and R are averaged over an image's classes before F1, and F1 over the images.
"""

from __future__ import annotations

import cv2
import numpy as np

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


def contour(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have a 4-neighbour outside of it; so has every mask pixel at the picture's edge.

    Args:
        mask: bool (h, w).

    Returns:
        bool (h, w).
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    return mask & (cv2.erode(padded, CROSS)[1:-1, 1:-1] == 0)


def contour_precision_recall(
    predicted: np.ndarray, true: np.ndarray, thresholds: np.ndarray, void: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the contour points of one mask that are closer than each threshold to the other's contour.

    Args:
        predicted, true: bool (h, w).
        thresholds: float (T,), px; distances are Euclidean, between pixel centres, and must be < the threshold.
        void: bool (h, w), pixels to be ignored: predicted points there that are near no true point count neither way.

    Returns:
        precision, recall: float64 (T,), 0..1; all 0 if one of the masks is empty.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    predicted_points, true_points = contour(predicted), contour(true)
    if not predicted_points.any() or not true_points.any():
        return np.zeros(len(thresholds)), np.zeros(len(thresholds))
    near_true = _distances(predicted_points, true_points)[:, None] < thresholds
    near_predicted = _distances(true_points, predicted_points)[:, None] < thresholds
    judged = near_true | ~void[predicted_points][:, None]
    return near_true.sum(axis=0) / np.maximum(judged.sum(axis=0), 1), near_predicted.mean(axis=0)


def _distances(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each point, in row-major order, to the nearest target; bool (h, w) both, at least one target."""
    return cv2.distanceTransform((~targets).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[points]


def f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
