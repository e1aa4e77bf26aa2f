"""From verified proposals to detections: classes, one score, suppression of duplicates, and a limit.

Shapes: K proposals of one image, C classes, (h, w) the label map's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..masks import mask_iou, mask_nms

SCORE_FUSIONS = ("sum", "product")
NMS_KINDS = ("hard", "matrix")
MAX_CANDIDATES = 1000  # pairs of proposal and class that go into the suppression: bounds its time and memory
MATRIX_NMS_SIGMA = 0.5  # of the Gaussian kernel exp(-IoU^2 / sigma), SOLOv2's


def detect(
    masks: Tensor,
    ious: Tensor,
    class_probs: Tensor | None,
    *,
    alpha: float,
    fusion: str,
    score_threshold: float,
    **suppression,
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections among the proposals: a proposal is one of its best class, and one of every other class that is at
    least `score_threshold` probable, as in Fast R-CNN. So a doubtful object is found whichever it is.

    Args:
        masks: bool (K, h, w). ious: float (K,) in [0, 1], predicted.
        class_probs: float (K, C) in [0, 1]; None, from heads without classes: all are of class 0.
        alpha, fusion: see :func:`fuse_scores`.
        suppression: the other options of :func:`select_detections`.

    Returns:
        the proposal int64, the class int64, and the score float of every detection, best first, (number kept,) each.
    """
    if class_probs is None:
        rows, classes, class_scores = torch.arange(len(ious), device=ious.device), torch.zeros_like(ious).long(), None
    else:
        highest = class_probs.amax(dim=1, keepdim=True)
        rows, classes = ((class_probs >= score_threshold) | (class_probs == highest)).nonzero(as_tuple=True)
        class_scores = class_probs[rows, classes]
    scores = fuse_scores(ious[rows], class_scores, alpha=alpha, fusion=fusion)
    if len(scores) > MAX_CANDIDATES:
        best = torch.argsort(scores.nan_to_num(nan=-1), descending=True)[:MAX_CANDIDATES].sort().values
        rows, classes, scores = rows[best], classes[best], scores[best]
    kept, scores = select_detections(masks[rows], scores, classes, score_threshold=score_threshold, **suppression)
    return rows[kept], classes[kept], scores


def fuse_scores(ious: Tensor, class_scores: Tensor | None, *, alpha: float, fusion: str) -> Tensor:
    """One score of each proposal, float (K,) in [0, 1].

    Args:
        ious: float (K,) in [0, 1], predicted.
        class_scores: float (K,) in [0, 1], probability of the class; None, from heads without classes: the score
            is the IoU, whatever the other arguments.
        alpha: weight of the IoU, in [0, 1].
        fusion: "sum", alpha * IoU + (1 - alpha) * class (supplement 4), or "product", their geometric mean
            IoU^alpha * class^(1 - alpha), which is low where either is.
    """
    if class_scores is None:
        return ious
    if fusion == "product":
        return ious**alpha * class_scores ** (1 - alpha)
    return alpha * ious + (1 - alpha) * class_scores


def select_detections(
    masks: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    nms: str = "hard",
    class_agnostic_nms: bool = False,
) -> tuple[Tensor, Tensor]:
    """Which proposals become detections: finite scores from the threshold on, without duplicates.

    Args:
        masks: bool (K, h, w). scores: float (K,). classes: int64 (K,).
        score_threshold: lower scores are dropped; with "matrix", lower scores after the decay.
        nms_threshold: mask IoU above which the worse of two is dropped; "hard" alone reads it.
        nms: "hard", :func:`mask_nms`, or "matrix", :func:`matrix_nms`.
        class_agnostic_nms: detections of different classes suppress each other too.

    Returns:
        int64 (number kept,), rows in descending order of score, and their scores, float (number kept,).
    """
    rows = ((scores >= score_threshold) & torch.isfinite(scores)).nonzero()[:, 0]
    groups = None if class_agnostic_nms else classes[rows]
    if nms == "matrix":
        # without those below the threshold: they are the last of all, so they suppress nothing
        decayed = matrix_nms(masks[rows], scores[rows], groups)
        order = torch.argsort(decayed, descending=True, stable=True)
        kept = order[decayed[order] >= score_threshold]
        kept_scores = decayed[kept]
    else:
        kept = mask_nms(masks[rows], scores[rows], nms_threshold, groups)
        kept_scores = scores[rows[kept]]
    return rows[kept[:max_detections]], kept_scores[:max_detections]


def matrix_nms(masks: Tensor, scores: Tensor, classes: Tensor | None = None) -> Tensor:
    """SOLOv2's matrix NMS with the Gaussian kernel (Wang et al. 2020, section 3.3).

    Every score is lowered by the better mask that overlaps it most, less so if that one is itself a duplicate:

        score_j * min over better i of f(IoU_ij) / f(max over k better than i of IoU_ki), f(x) = exp(-x^2 / sigma)

    Args:
        masks: bool (K, h, w). scores: float (K,), finite; of equal scores the first is the better.
        classes: int64 (K,): masks of different classes do not lower each other's scores. None: they do.

    Returns:
        float (K,), in the order given; none is greater than before.
    """
    if not len(scores):
        return scores
    order = torch.argsort(scores, descending=True, stable=True)
    masks = masks[order]
    iou = mask_iou(masks, masks)
    if classes is not None:
        iou = iou * (classes[order, None] == classes[None, order])
    squared = iou.triu(diagonal=1).square()  # row i is better than column j
    itself = squared.amax(dim=0)
    # rows that are not better hold 0, so their ratio is at least 1, and the best row's at most 1
    decay = torch.exp((itself[:, None] - squared) / MATRIX_NMS_SIGMA).amin(dim=0)
    return scores * torch.empty_like(decay).index_copy_(0, order, decay).to(scores.dtype)
