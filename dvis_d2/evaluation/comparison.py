"""What was found in one image, object by object: hit, missed, merged, split. D detections, G objects, all COCO RLEs."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO

HIT, MISS, MERGE, SPLIT, DUPLICATE, EXTRA = "hit", "miss", "merge", "split", "duplicate", "extra"


@dataclass(frozen=True)
class Comparison:
    iou: np.ndarray  # float (D, G); for a crowd the share of the detection that lies in it
    match: np.ndarray  # int (D,): the object that each detection stands for, -1 for none
    found: list[str]  # of each detection HIT, MERGE (covers several objects), SPLIT (a piece of one), DUPLICATE, EXTRA
    objects: list[str]  # of each object HIT, MISS, MERGE, SPLIT; "" for a crowd


def compare_masks(
    found: Sequence[dict],
    found_classes: Sequence[int],
    objects: Sequence[dict],
    object_classes: Sequence[int],
    crowd: Sequence[bool],
    *,
    iou_threshold: float = 0.5,
) -> Comparison:
    """Match detections, the best first, to the objects of their class that they overlap most, as COCO does, and say of
    the others why not. A detection in a crowd is none of these: its `found` is ""."""
    classes, own = np.asarray(found_classes, int), np.asarray(object_classes, int)
    crowds = np.asarray(crowd, bool).reshape(-1)
    iou = np.zeros((len(found), len(objects)))
    if iou.size:
        iou = np.nan_to_num(mask_util.iou(list(found), list(objects), crowds.astype(np.uint8)))
    match, taken = np.full(len(found), -1), crowds.copy()
    for d in range(len(found)):
        fits = np.where(taken | (own != classes[d]), -1, iou[d])
        if fits.size and fits.max() >= iou_threshold:
            match[d] = fits.argmax()
            taken[match[d]] = True
    area, object_area = (np.array([mask_util.area(rle) for rle in rles], float) for rles in (found, objects))
    both = iou * (area[:, None] + object_area) / (1 + iou)
    covers = (both > 0.5 * object_area) & ~crowds  # (D, G): more than half of the object
    inside = (both > 0.5 * area[:, None]) & ~crowds  # (D, G): more than half of the detection
    hit = np.isin(np.arange(len(objects)), match)
    merges, pieces = covers.sum(1) > 1, inside & ~covers
    split = (pieces.sum(0) > 1) & ~hit
    merged = covers[merges & (match < 0)].any(0) & ~hit

    def of_detection(d: int) -> str:
        if match[d] >= 0:
            return HIT
        if (iou[d][crowds] >= iou_threshold).any():
            return ""
        if merges[d]:
            return MERGE
        if (pieces[d] & split).any():
            return SPLIT
        return DUPLICATE if (iou[d][hit & (own == classes[d])] >= iou_threshold).any() else EXTRA

    def of_object(g: int) -> str:
        return "" if crowds[g] else HIT if hit[g] else MERGE if merged[g] else SPLIT if split[g] else MISS

    return Comparison(iou, match, [*map(of_detection, range(len(found)))], [*map(of_object, range(len(objects)))])


def coco_of_masks(
    images: Sequence[tuple[tuple[int, int], Sequence[dict], Sequence[int], Sequence[bool]]], num_classes: int
) -> COCO:
    """COCO ground truth of images, each its size (height, width), the RLEs of its objects, their classes, and which are
    crowds. Images and categories are numbered from 0."""
    coco, annotations = COCO(), list[dict]()
    for number, (_, rles, classes, crowd) in enumerate(images):
        for rle, kind, is_crowd in zip(rles, classes, crowd, strict=True):
            box, area = mask_util.toBbox(rle).tolist(), int(mask_util.area(rle))
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "bbox": box, "area": area}
            annotations.append(own | {"segmentation": rle, "iscrowd": int(is_crowd)})
    coco.dataset = {
        "images": [{"id": number, "height": h, "width": w} for number, ((h, w), *_) in enumerate(images)],
        "categories": [{"id": k, "name": str(k)} for k in range(num_classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # progress
        coco.createIndex()
    return coco
