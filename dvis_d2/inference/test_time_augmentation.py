"""Test-time augmentation: the network sees an image at several sizes and mirrored, and the detections are averaged.

Label maps cannot be averaged, since a label means nothing outside its own map. So every view goes all the way to
detections, which are brought into the frame of one view, the reference; those of different views that cover the same
cells are one object, and their scores and masks are averaged.

Shapes: K detections, (h, w) the label map's grid, (H, W) an image in pixels, M the resolution of the mask head.
"""

import torch
import torch.nn.functional as F
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Instances
from fvcore.transforms import HFlipTransform
from torch import Tensor

from ..modeling.masks import mask_iou


class DVISWithTTA(GeneralizedRCNNWithTTA):
    """A DVIS that looks at each image, which should come as stored, in all the ways of ``TEST.AUG``, one at a time."""

    @torch.no_grad()
    def _inference_one_image(self, input: dict) -> dict:
        inputs, transforms = self._get_augmented_inputs(input)
        flipped = [any(isinstance(t, HFlipTransform) for t in transform.transforms) for transform in transforms]
        views = [self.model.inference([x], do_postprocess=False)[0] for x in inputs]
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
    """One image's detections in several views as one set, best first, for :meth:`DVISROIHeads.postprocess`.

    The reference is the largest view that is not flipped. Detections of one class are one object if their soft masks,
    cut at 1/2, overlap by more than `iou_threshold`. A score is averaged over all views, those that miss the object
    counting 0; masks over the views that have it, in the box of the best. One view alone comes out as it went in.

    Views have pred_boxes, in their own pixels, scores, pred_classes, soft_masks (K, h, w) and mask_probs (K, M, M); not
    all are `flipped`, mirrored left to right. `stride` is the label map's, in pixels.
    """
    both = list(zip(views, flipped, strict=True))
    reference = max((view for view, flip in both if not flip), key=lambda view: view.image_size)
    size, grid = reference.image_size, reference.soft_masks.shape[1:]
    found = Instances.cat([v if v is reference else align_view(v, flip, size, grid, stride=stride) for v, flip in both])
    masks = found.soft_masks >= 0.5
    source = torch.cat([torch.full_like(v.pred_classes, i) for i, v in enumerate(views)])
    leaders = match_detections(mask_iou(masks, masks), found.scores, found.pred_classes, source, iou_threshold)

    boxes = found.pred_boxes.tensor
    probs, targets = found.mask_probs, boxes[leaders]
    moved = resample(probs[:, None], boxes, targets, probs.shape[1:])[:, 0]
    found.mask_probs = torch.where((boxes == targets).all(dim=1)[:, None, None], probs, moved)
    kept, group, counts = leaders.unique(return_inverse=True, return_counts=True)
    merged = found[kept]
    per_mask = counts[:, None, None]
    for name, divisor in (("scores", len(views)), ("soft_masks", per_mask), ("mask_probs", per_mask)):
        values = found.get(name)
        merged.set(name, torch.zeros_like(values[kept]).index_add_(0, group, values) / divisor)
    order = torch.argsort(merged.scores, descending=True, stable=True)
    return merged[order[merged.scores[order] >= score_threshold][:max_detections]]


def match_detections(iou: Tensor, scores: Tensor, classes: Tensor, views: Tensor, threshold: float) -> Tensor:
    """Which detections of different views are one object: int64 (K,), the leader of each, its own index for a leader.

    In descending order of score, a detection joins the leader that it overlaps most, of the same class and by more than
    the threshold, unless a detection of the same view has joined already; or becomes a leader. `iou` is (K, K).
    """
    order = torch.argsort(scores, descending=True, stable=True)
    agree = (iou > threshold) & (classes[:, None] == classes) & (views[:, None] != views)
    overlaps, view_of = torch.where(agree, iou, 0).tolist(), views.tolist()
    leaders = list(range(len(view_of)))
    taken: dict[int, set[int]] = {}
    for k in order.tolist():
        best = max((i for i in taken if view_of[k] not in taken[i]), key=lambda i: overlaps[k][i], default=k)
        if best != k and overlaps[k][best] > 0:
            leaders[k] = best
            taken[best].add(view_of[k])
        else:
            taken[k] = {view_of[k]}
    return torch.tensor(leaders, dtype=torch.int64, device=scores.device)


def align_view(
    view: Instances, flipped: bool, size: tuple[int, int], grid: tuple[int, int], *, stride: int
) -> Instances:
    """A view's detections in the frame of another: resized, and mirrored back if they are flipped. `size` is the other
    view's (H, W), `grid` its label map's (h, w), which may extend beyond it."""
    height, width = view.image_size
    scale_y, scale_x = size[0] / height, size[1] / width
    boxes = view.pred_boxes.clone()
    if flipped:
        boxes.tensor[:, [0, 2]] = width - boxes.tensor[:, [2, 0]]
    boxes.scale(scale_x, scale_y)

    soft = view.soft_masks
    end_x, end_y = grid[1] * stride / scale_x, grid[0] * stride / scale_y
    ends = [width, 0, width - end_x, end_y] if flipped else [0, 0, end_x, end_y]
    frame = boxes.tensor.new_tensor([[0, 0, soft.shape[2] * stride, soft.shape[1] * stride], ends])
    return Instances(
        size,
        pred_boxes=boxes,
        scores=view.scores,
        pred_classes=view.pred_classes,
        soft_masks=resample(soft[None], frame[:1], frame[1:], grid, padding_mode="border")[0],
        mask_probs=view.mask_probs.flip(2) if flipped else view.mask_probs,
    )


def resample(maps: Tensor, boxes: Tensor, targets: Tensor, size: tuple[int, int], **options: str) -> Tensor:
    """float (N, C, h, w), of `size`: what maps that fill `boxes`, (N, 4), say inside `targets`, (N, 4), whose ends may
    be the wrong way round; 0 outside the former, or as ``F.grid_sample`` says."""
    (low, high), (start, end) = boxes.split(2, dim=1), targets.split(2, dim=1)
    zoom, shift = (end - start) / (high - low), (start + end - low - high) / (high - low)
    y, x = (((2 * torch.arange(n, device=maps.device) + 1) / n - 1) for n in size)
    x, y = x * zoom[:, :1] + shift[:, :1], y * zoom[:, 1:] + shift[:, 1:]  # in [-1, 1] from edge to edge
    points = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
    return F.grid_sample(maps, points, align_corners=False, **options)
