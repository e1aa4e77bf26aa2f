"""What the page says about a view: why an object won, the mean shift, the comparison with the truth."""

from typing import Any

import cv2
import numpy as np
import torch

from ..data.cropped_masks import CroppedMasks, tight_box
from ..evaluation.coco_ap import average_precision, evaluate_coco
from ..evaluation.comparison import coco_of_masks, compare_masks
from ..modeling.detections import maskness
from ..modeling.masks import mask_iou
from ..modeling.mean_shift import mean_shift_1d
from .session import Explorer, View

BINS = 400  # of the histogram
MATRIX_OVERLAP = 0.5  # IoU from which a mask that "matrix" lowers is called a rival


def explain(explorer: Explorer, view: View, thresholds: Any, number: int) -> tuple[dict[str, Any], np.ndarray]:
    """The parts of an object's score, the proposals of its class that it suppresses, best first, and its soft
    membership, uint8 inside "box" on the map's grid."""
    found, heads = explorer.find(view, thresholds), explorer.network.roi_heads
    proposals, row, kind = found.proposals, int(found.rows[number]), int(found.classes[number])
    probs, ious = proposals.class_probs.cpu(), proposals.ious.cpu()
    scores = heads.alpha * ious + (1 - heads.alpha) * probs[:, kind]
    inside, soft = proposals.proposal_masks[row].cpu(), proposals.soft_masks[row].cpu()
    x0, y0, x1, y1 = tight_box(inside.numpy())
    near = proposals.proposal_masks[:, y0:y1, x0:x1].flatten(1).any(dim=1).nonzero()[:, 0]
    overlap = torch.zeros(len(proposals))
    overlap[near.cpu()] = mask_iou(proposals.proposal_masks[[row]], proposals.proposal_masks[near])[0].cpu()
    rivals = overlap > (heads.nms_threshold if heads.nms == "hard" else MATRIX_OVERLAP)
    rivals &= (scores <= scores[row]) & (scores >= heads.score_threshold) & (probs.argmax(1) == kind)
    rivals[found.rows[found.classes == kind]] = False
    order = [k for k in torch.argsort(-scores).tolist() if rivals[k]]
    best = probs[row].argsort(descending=True)[:3].tolist()
    x0, y0, x1, y1 = box = [int(side) for side in tight_box((soft > 0).numpy())]
    labels = view.features.label_map[0].relu()
    sure = float(maskness(proposals.mask_probs[[row]])) if heads.mask_source == "head" else 1.0
    said = {
        "box": box,
        "value": float(labels[inside].mean()) if inside.any() else 0.0,
        "classes": [[explorer.class_names[k], float(probs[row, k])] for k in best],
        "iou": float(ious[row]),
        "alpha": heads.alpha,
        "sure": sure,
        "rank": float(proposals.objectness_logits[row]),
        "rivals": [[float(scores[k]), float(overlap[k])] for k in order],
    }
    return said, (255 * soft[y0:y1, x0:x1]).round().byte().numpy()


def histogram(explorer: Explorer, view: View, thresholds: Any) -> dict[str, Any]:
    """Of the foreground's labels: counts between "low" and "high", and for each bandwidth the density estimate, the
    modes that the mean shift finds, and the valleys between them."""
    grouping = explorer.settings(thresholds)
    labels, bandwidths = explorer.label_map(view), sorted(grouping["MODEL.MEAN_SHIFT.BANDWIDTHS"])
    labels = labels[np.isfinite(labels) & (labels > grouping["MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD"])]
    low, high = (float(labels.min()), float(labels.max())) if labels.size else (0.0, 1.0)
    low, high = low - bandwidths[-1] / 2, high + bandwidths[-1] / 2
    counts, _ = np.histogram(labels, BINS, (low, high))
    curves = []
    for bandwidth in bandwidths:
        distance = np.arange(-BINS, BINS + 1) * (high - low) / BINS / (bandwidth / 3)
        kernel = np.exp(-(distance**2) / 2)
        density = np.convolve(counts, kernel / kernel.sum())[BINS : 2 * BINS]
        modes, assignment = mean_shift_1d(torch.from_numpy(labels), bandwidth)
        basins = [labels[assignment.numpy() == k] for k in range(len(modes))]
        valleys = [float(a.max() + b.min()) / 2 for a, b in zip(basins, basins[1:], strict=False)]
        curve = {"bandwidth": bandwidth, "modes": modes.tolist(), "valleys": valleys}
        curves.append(curve | {"density": density.round(3).tolist()})
    return {"low": low, "high": high, "counts": counts.tolist(), "curves": curves}


def compare(explorer: Explorer, image: int, view: View, thresholds: Any) -> tuple[dict[str, Any], CroppedMasks] | None:
    """The view's annotated objects beside those found, the AP of the view, and the objects' masks at the size at which
    all are drawn; None where nothing is annotated."""
    source, truth = explorer.sources[image], explorer.truth
    if truth is None or source.image_id is None:
        return None
    y0, y1, x0, x1 = view.window
    masks, kept = np.zeros((0, *view.drawn), dtype=bool), list[dict]()
    for annotation in truth.imgToAnns[source.image_id]:
        if annotation.get("segmentation"):
            mask = truth.annToMask(annotation)[y0:y1, x0:x1]
            mask = cv2.resize(mask, view.drawn[::-1], interpolation=cv2.INTER_NEAREST) > 0
            if mask.any():
                masks, kept = np.concatenate([masks, mask[None]]), [*kept, annotation]
    cropped, ids, found = CroppedMasks.from_masks(masks), sorted(truth.cats), explorer.find(view, thresholds)
    classes, crowd = [ids.index(a["category_id"]) for a in kept], [bool(a.get("iscrowd")) for a in kept]
    rles, objects = found.masks.to_rle(), cropped.to_rle()
    result = compare_masks(rles, found.classes.tolist(), objects, classes, crowd)
    coco = coco_of_masks([(view.drawn, objects, classes, crowd)], len(ids))
    rows = zip(found.classes.tolist(), rles, found.scores.tolist(), strict=True)
    scored = [{"image_id": 0, "category_id": k, "segmentation": rle, "score": score} for k, rle, score in rows]
    evaluator = evaluate_coco(coco, scored)
    said = {
        "classes": [truth.cats[a["category_id"]]["name"] for a in kept],
        "objects": result.objects,
        "found": result.found,
        "iou": result.iou.max(1, initial=0).tolist(),
        "ap": [average_precision(evaluator, iou=iou) for iou in (None, 0.5)],
    }
    return said, cropped
