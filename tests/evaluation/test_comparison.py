"""Hits, misses, merges and splits of squares."""

import numpy as np
import pytest

from dvis_d2.data.annotations import encode_masks
from dvis_d2.evaluation.comparison import coco_of_masks, compare_masks


def rles(*boxes, size=(40, 60)):
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return encode_masks(masks) if boxes else []


LEFT, RIGHT = (0, 0, 10, 10), (10, 0, 20, 10)
BOTH = (0, 0, 20, 10)


@pytest.mark.parametrize(
    "found, objects, of_found, of_objects",
    [
        ([LEFT, RIGHT], [LEFT, RIGHT], ["hit", "hit"], ["hit", "hit"]),
        ([LEFT, LEFT], [LEFT, RIGHT], ["hit", "duplicate"], ["hit", "miss"]),
        ([(0, 0, 20, 12)], [LEFT, RIGHT], ["merge"], ["merge", "merge"]),
        ([(0, 0, 7, 10), (13, 0, 20, 10)], [BOTH], ["split", "split"], ["split"]),
        ([(40, 20, 50, 30)], [LEFT], ["extra"], ["miss"]),
        ([], [LEFT], [], ["miss"]),
        ([LEFT], [], ["extra"], []),
        ([], [], [], []),
    ],
)
def test_outcomes(found, objects, of_found, of_objects):
    n, m = len(found), len(objects)
    result = compare_masks(rles(*found), [0] * n, rles(*objects), [0] * m, [False] * m)
    assert (result.found, result.objects) == (of_found, of_objects)


def test_another_class_is_no_hit_and_a_crowd_is_neither():
    result = compare_masks(rles(LEFT, RIGHT), [0, 0], rles(LEFT, RIGHT), [1, 0], [False, True])
    assert result.found == ["extra", ""] and result.objects == ["miss", ""] and result.match.tolist() == [-1, -1]


def test_the_better_detection_takes_the_object():
    result = compare_masks(rles((0, 0, 10, 9), LEFT), [0, 0], rles(LEFT), [0], [False])
    assert result.match.tolist() == [0, -1]


def test_coco_has_the_objects():
    coco = coco_of_masks([((40, 60), rles(LEFT, BOTH), [0, 2], [False, True]), ((40, 60), [], [], [])], 3)
    assert [(a["image_id"], a["category_id"], a["area"], a["iscrowd"]) for a in coco.anns.values()] == [
        (0, 0, 100, 0),
        (0, 2, 200, 1),
    ]
    assert sorted(coco.imgs) == [0, 1] and sorted(coco.cats) == [0, 1, 2]
