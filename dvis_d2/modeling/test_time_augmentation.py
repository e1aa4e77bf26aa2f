"""Test-time augmentation: the network sees an image at several sizes and mirrored, and the detections are averaged.

Label maps of two views cannot be averaged: a label means nothing outside its own map. So every view goes all the way to
detections; those of different views that cover the same cells are taken for one object, and their scores and soft masks
are averaged. Boxes and soft masks of a view are first brought into the frame of one of them, the reference.

Shapes: K detections of all views, (h, w) the label map's grid of the reference, (H, W) an image in pixels, M the
resolution of the mask head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from fvcore.transforms import HFlipTransform
from torch import Tensor

from .masks import mask_iou


class DVISWithTTA(GeneralizedRCNNWithTTA):
    """A DVIS that is called like one and looks at each image in all the ways of ``TEST.AUG``.

    The images should come as stored, without an earlier resizing. Views run one at a time.
    """

    @torch.no_grad()
    def _inference_one_image(self, input: dict) -> dict:
        inputs, transforms = self._get_augmented_inputs(input)
        flipped = [any(isinstance(t, HFlipTransform) for t in transform.transforms) for transform in transforms]
        # the detections before they become masks of the output's size, which DVIS.inference would return
        views = [GeneralizedRCNN.inference(self.model, [x], do_postprocess=False)[0] for x in inputs]
        heads = self.model.roi_heads
        merged = merge_views(
            views,
            flipped,
            stride=heads.map_stride,
            iou_threshold=heads.nms_threshold,
            score_threshold=heads.score_threshold,
            max_detections=heads.max_detections,
        )
        return {"instances": heads.postprocess(merged, input["height"], input["width"])}


def merge_views(
    views: list[Instances],
    flipped: list[bool],
    *,
    stride: int,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
) -> Instances:
    """One image's detections in several views as one set of detections.

    The reference is the largest view that is not flipped. A score is averaged over all views, those that miss the
    object counting 0; soft masks and mask probabilities are averaged over the views that have it, in the box of the
    best of them. One view alone comes out as it went in.

    Args:
        views: with the fields of :meth:`DVISROIHeads.predict`, in the pixels of each view.
        flipped: which views are mirrored left to right; not all.
        stride: of the label map, in pixels.
        iou_threshold: soft masks, cut at 1/2, that overlap more and have one class are one object.
        score_threshold: averages below this are dropped.
        max_detections: kept, best first.

    Returns:
        detections in the reference's frame, for :meth:`DVISROIHeads.postprocess`.
    """
    reference = max(
        (view for view, flip in zip(views, flipped, strict=True) if not flip), key=lambda view: view.image_size
    )
    grid = reference.soft_masks.shape[1:]
    aligned = [
        view if view is reference else align_view(view, flip, reference.image_size, grid, stride=stride)
        for view, flip in zip(views, flipped, strict=True)
    ]
    found = Instances.cat(aligned)
    masks = found.soft_masks >= 0.5
    source = torch.cat([torch.full_like(v.pred_classes, i) for i, v in enumerate(views)])
    leaders = match_detections(mask_iou(masks, masks), found.scores, found.pred_classes, source, iou_threshold)

    boxes = found.pred_boxes.tensor
    found.mask_probs = _move_to_boxes(found.mask_probs, boxes, boxes[leaders])
    kept, group, counts = leaders.unique(return_inverse=True, return_counts=True)
    merged = found[kept]
    merged.scores = _sum_groups(found.scores, group, len(kept)) / len(views)
    for name in ("soft_masks", "mask_probs"):
        sums = _sum_groups(found.get(name), group, len(kept))
        merged.set(name, sums / counts[:, None, None])
    order = torch.argsort(merged.scores, descending=True, stable=True)
    return merged[order[merged.scores[order] >= score_threshold][:max_detections]]


def match_detections(iou: Tensor, scores: Tensor, classes: Tensor, views: Tensor, threshold: float) -> Tensor:
    """Which detections of different views are one object.

    In descending order of score, a detection joins the leader that it overlaps most, of the same class and by more than
    the threshold, unless a detection of the same view has joined already; or becomes a leader.

    Args:
        iou: float (K, K). scores: float (K,). classes, views: int64 (K,).

    Returns:
        int64 (K,): the leader of every detection, its own index for a leader.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    agree = (iou > threshold) & (classes[:, None] == classes) & (views[:, None] != views)
    iou = torch.where(agree, iou, 0).tolist()
    views = views.tolist()
    leaders = list(range(len(views)))
    taken: dict[int, set[int]] = {}
    for k in order.tolist():
        best = max((i for i in taken if views[k] not in taken[i]), key=lambda i: iou[k][i], default=k)
        if best != k and iou[k][best] > 0:
            leaders[k] = best
            taken[best].add(views[k])
        else:
            taken[k] = {views[k]}
    return torch.tensor(leaders, dtype=torch.int64, device=scores.device)


def align_view(view: Instances, flipped: bool, size: tuple[int, int], grid: tuple[int, int], *, stride: int):
    """A view's detections in the frame of another: resized, and mirrored back if they are flipped.

    Args:
        size: (H, W) of the other view. grid: (h, w) of its label map, which may extend beyond it.
    """
    height, width = view.image_size
    x0, y0, x1, y1 = view.pred_boxes.tensor.unbind(dim=1)
    if flipped:
        x0, x1 = width - x1, width - x0
    scale_y, scale_x = size[0] / height, size[1] / width
    boxes = torch.stack([x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y], dim=1)

    # where the centres of the other grid's cells lie on this one, in [-1, 1] from edge to edge
    soft = view.soft_masks
    y = (torch.arange(grid[0], device=soft.device) + 0.5) * stride / scale_y
    x = (torch.arange(grid[1], device=soft.device) + 0.5) * stride / scale_x
    if flipped:
        x = width - x
    y, x = y / stride * 2 / soft.shape[1] - 1, x / stride * 2 / soft.shape[2] - 1
    points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=2)[None]
    aligned = Instances(size, pred_boxes=Boxes(boxes), scores=view.scores, pred_classes=view.pred_classes)
    aligned.soft_masks = F.grid_sample(soft[None], points, padding_mode="border", align_corners=False)[0]
    aligned.mask_probs = view.mask_probs.flip(2) if flipped else view.mask_probs
    return aligned


def _move_to_boxes(probs: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """float (K, M, M): what probabilities inside `boxes` (K, 4) say inside `targets` (K, 4); 0 outside their own box,
    as where they are pasted. Unchanged where the two boxes are one."""
    size = probs.shape[-1]
    centres = (torch.arange(size, device=probs.device) + 0.5) / size
    points = []
    for start, end in ((0, 2), (1, 3)):  # x, y
        at = targets[:, start, None] + centres * (targets[:, end] - targets[:, start])[:, None]
        points.append((at - boxes[:, start, None]) / (boxes[:, end] - boxes[:, start])[:, None] * 2 - 1)
    x, y = points
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    moved = F.grid_sample(probs[:, None], grid, align_corners=False)[:, 0]
    return torch.where((boxes == targets).all(dim=1)[:, None, None], probs, moved)


def _sum_groups(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Sums of the rows of each group, (num_groups, ...)."""
    return values.new_zeros(num_groups, *values.shape[1:]).index_add_(0, group, values)
