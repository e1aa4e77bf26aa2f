"""From verified proposals to detections: classes, one score, suppression of duplicates, and a limit.

Shapes: K proposals of one image, C classes, (h, w) the label map's grid.
"""

from typing import Any

import numpy as np

from .arrays import on_host
from .masks import mask_nms, matrix_nms, shared_by_masks, uncovered
from .options import check_range

NMS_KINDS = ("hard", "matrix")
MAX_CANDIDATES = 1000  # pairs of proposal and class that go into the suppression: bounds its time and memory

LIKELY = 0.5  # the probability, or the score, of what likely is an object
FOR_AP = 0.2  # score thresholds up to here are not a user's


@on_host
def detect(
    masks: Any,
    ious: Any,
    class_probs: Any,
    *,
    alpha: float,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    nms: str = "hard",
) -> tuple[Any, Any, Any]:
    """The detections among the proposals: a proposal is one of its best class, and one of every other class that is at
    least `score_threshold` probable, as in Fast R-CNN. The score is alpha * IoU + (1 - alpha) * class probability
    (supplement 4).

    Args:
        masks, ious, class_probs: bool (K, h, w); predicted, float (K,) and (K, C) in [0, 1]. Arrays or tensors.
        alpha: weight of the IoU, in [0, 1].
        score_threshold: detections with a lower score are dropped; with "matrix", a lower score after the decay. Above
            `FOR_AP` so are those, of any class, that lie by more than half on a better one: a pixel of a label map
            belongs to one object. AP gains by such guesses, who looks or counts is misled.
        nms_threshold: mask IoU above which the worse of two of a class is dropped; "hard" alone reads it.
        nms: "hard", :func:`mask_nms`, or "matrix", :func:`matrix_nms`.

    Returns:
        the proposal int64, the class int64, and the score float of every detection, best first, (number kept,) each;
        scores that are not finite are dropped. ValueError for an option out of its range.
    """
    check_range(0, 1, alpha=alpha, score_threshold=score_threshold)
    check_range(max_detections=max_detections)
    highest = class_probs.max(axis=1, keepdims=True)
    rows, classes = np.nonzero((class_probs >= score_threshold) | (class_probs == highest))
    scores = alpha * ious[rows] + (1 - alpha) * class_probs[rows, classes]
    if len(scores) > (limit := max(MAX_CANDIDATES, 2 * max_detections)):
        best = np.sort(np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable")[:limit])
        rows, classes, scores = rows[best], classes[best], scores[best]
    # without those below the threshold: they are the last of all, so they suppress nothing
    likely = (scores >= score_threshold) & np.isfinite(scores)
    rows, classes, scores = rows[likely], classes[likely], scores[likely]
    shared = shared_by_masks(masks)
    if nms == "matrix":
        scores = matrix_nms(shared, scores, classes, rows)
        kept = np.argsort(-scores, kind="stable")
        kept = kept[scores[kept] >= score_threshold]
    else:
        kept = mask_nms(shared, scores, nms_threshold, classes, rows)
    if score_threshold > FOR_AP:
        kept = kept[uncovered(shared, rows[kept])]
    kept = kept[:max_detections]
    return rows[kept], classes[kept], scores[kept]


@on_host
def maskness(mask_probs: Any) -> Any:
    """How sure the mask head is of each mask, float (K, M, M) in [0, 1]: its mean where it reaches 1/2, 0 where it does
    nowhere; float (K,) in {0} and [1/2, 1] (SOLOv2, Wang et al. 2020)."""
    inside = mask_probs >= 0.5
    return (mask_probs * inside).sum((1, 2)) / inside.sum((1, 2), dtype=np.float32).clip(1)


@on_host
def weighted_by_masks(scores: Any, mask_probs: Any, score_threshold: float) -> tuple[Any, Any]:
    """Scores float (K,) times the :func:`maskness` of each mask, float (K, M, M): the predicted IoU is that of the
    proposal, this knows the mask that is drawn. Returns the indices int64 of those that are still at least
    `score_threshold`, best first, and their scores."""
    scores = scores * maskness(mask_probs)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= score_threshold]
    return order, scores[order]
