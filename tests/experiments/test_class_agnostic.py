import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from experiments.class_agnostic import best_overlaps, class_agnostic_ap, coco_of_masks, rle_iou

SIZE = (20, 40)


def box(x0, x1):
    """RLE of the full-height columns x0..x1."""
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[:, x0:x1] = 1
    return mask_util.encode(mask)


def result(mask, score, image_id=0):
    return {"image_id": image_id, "segmentation": mask, "score": score}


def test_overlaps_by_hand():
    detections, objects = [box(0, 10), box(5, 15)], [box(0, 20), box(30, 40), box(0, 10)]
    assert rle_iou(detections, objects).tolist() == pytest.approx(np.array([[0.5, 0, 1], [0.5, 0, 1 / 3]]))
    of_detections, of_objects = best_overlaps(detections, objects)
    assert of_detections.tolist() == [1, 0.5] and of_objects.tolist() == [0.5, 0, 1]
    for d, o in (([], objects), (detections, []), ([], [])):
        of_detections, of_objects = best_overlaps(d, o)
        assert of_detections.tolist() == [0] * len(d) and of_objects.tolist() == [0] * len(o)


def test_ap_by_hand():
    """One object is hit with IoU 0.8, the other missed; a wrong mask ranks last, or first."""
    coco = coco_of_masks([(SIZE, [box(0, 10), box(20, 30)], [])])
    hit, wrong = box(0, 8), box(34, 40)
    half = 100 * 51 / 101  # recall .5 is reached at 51 of COCO's 101 recall levels
    ap = class_agnostic_ap(coco, [result(hit, 0.9), result(wrong, 0.1)], [0])
    # IoU .5 to .8 count, by COCO's own rounding of .8: 6 or 7 of 10 thresholds
    assert ap["AP50"] == ap["AP75"] == pytest.approx(half)
    assert ap["AP"] == pytest.approx(half * 0.7) or ap["AP"] == pytest.approx(half * 0.6)
    ap = class_agnostic_ap(coco, [result(hit, 0.1), result(wrong, 0.9)], [0])
    assert ap["AP50"] == pytest.approx(half / 2)


def test_more_than_a_hundred_masks_count():
    mask = np.zeros((12, 12), dtype=np.uint8, order="F")
    objects = []
    for i in range(144):
        mask.ravel(order="K")[i] = 1
        objects.append(mask_util.encode(mask))
        mask[:] = 0
    coco = coco_of_masks([((12, 12), objects, [])])
    ap = class_agnostic_ap(coco, [result(m, 0.5) for m in objects], [0])
    assert ap["AP"] == pytest.approx(100)


def test_masks_on_crowds_are_no_mistakes_and_other_images_count():
    images = [(SIZE, [box(0, 10)], [box(20, 40)]), (SIZE, [box(0, 10)], [])]
    coco = coco_of_masks(images)
    results = [result(box(22, 30), 0.9), result(box(0, 10), 0.5), result(box(0, 10), 0.4, image_id=1)]
    assert class_agnostic_ap(coco, results, [0, 1])["AP50"] == pytest.approx(100)
    results[0]["image_id"] = 1  # where there is no crowd
    assert class_agnostic_ap(coco, results, [0, 1])["AP50"] == pytest.approx(100 * 2 / 3)
    assert class_agnostic_ap(coco, results[1:2], [0, 1])["AP50"] == pytest.approx(100 * 51 / 101)


def test_nothing_found_and_nothing_to_find():
    coco = coco_of_masks([(SIZE, [box(0, 10)], []), (SIZE, [], [box(0, 5)])])
    assert class_agnostic_ap(coco, [], [0])["AP"] == 0
    assert math.isnan(class_agnostic_ap(coco, [result(box(0, 5), 1, image_id=1)], [1])["AP"])
