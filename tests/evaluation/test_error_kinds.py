"""The kinds of error, each in the smallest case that has it, and what an oracle gains."""

import numpy as np
import pytest

from dvis_d2.data.annotations import encode_masks
from dvis_d2.evaluation import error_kinds as kinds
from dvis_d2.evaluation.coco_ap import average_precision, evaluate_coco
from dvis_d2.evaluation.comparison import coco_of_masks
from dvis_d2.evaluation.error_kinds import ImageRecord, error_costs, find_errors, label_map_cause

SIZE = (40, 60)
A, B = (0, 0, 10, 10), (30, 20, 40, 30)
HALF = (0, 0, 10, 4)  # IoU 0.4 with A
FAR = (50, 30, 60, 40)


def rles(boxes):
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return encode_masks(masks) if boxes else []


def record(found, objects, causes=()):
    """Of (box, class) pairs; scores descend."""
    scores = np.linspace(0.9, 0.1, len(found)).tolist()
    boxes, classes = [box for box, _ in found], [kind for _, kind in found]
    own = [box for box, _ in objects]
    crowd = [False] * len(own)
    return ImageRecord(SIZE, rles(boxes), classes, scores, rles(own), [k for _, k in objects], crowd, list(causes))


@pytest.mark.parametrize(
    "found, kind",
    [
        ([(A, 0)], ""),
        ([(A, 1)], "Cls"),
        ([(HALF, 0)], "Loc"),
        ([(HALF, 1)], "Both"),
        ([(A, 0), (A, 0)], "Dupe"),
        ([(FAR, 0)], "Bkg"),
    ],
)
def test_every_kind_of_tide(found, kind):
    errors = find_errors(record(found, [(A, 0)]))
    assert errors.found[-1] == kind
    assert errors.missed == [kind in ("Both", "Bkg")]  # else a correction would find it


def test_an_oracle_gains_what_the_kind_costs():
    wrong = {"Cls": [(A, 1)], "Loc": [(HALF, 0)], "Miss": []}
    for kind, found in wrong.items():
        own = record([*found, (B, 0)], [(A, 0), (B, 0), (FAR, 1)])
        costs = error_costs([own], [find_errors(own)])["tide"]
        assert costs[kind]["count"] == (2 if kind == "Miss" else 1) and costs[kind]["cost"] > 20
        assert costs["Dupe"] == {"count": 0, "cost": 0}
    perfect = record([(A, 0)], [(A, 0)])
    costs = error_costs([perfect], [find_errors(perfect)])
    assert costs["all"]["ap50"]["value"] == 100 and not any(own["cost"] for own in costs["tide"].values())


def test_removing_what_is_invented_above_a_hit_gains_precision():
    own = record([(FAR, 0), (A, 0)], [(A, 0)])
    costs = error_costs([own], [find_errors(own)])
    assert costs["all"]["ap50"]["value"] == pytest.approx(50, abs=1)
    assert costs["tide"]["Bkg"]["cost"] == pytest.approx(50, abs=1)


def test_ap50_is_that_of_coco():
    rng, records = np.random.default_rng(0), []
    for _ in range(6):
        boxes = [(x, y, x + 8, y + 8) for x, y in rng.integers(0, 30, (5, 2))]
        found = [((x0 + d, y0, x1 + d, y1), int(rng.integers(2))) for (x0, y0, x1, y1) in boxes for d in (0, 3)]
        rng.shuffle(found)
        objects = [(box, int(rng.integers(2))) for box in boxes]
        own = record([(tuple(map(int, box)), int(k)) for box, k in found], objects)
        own.scores = np.sort(rng.random(len(found)))[::-1].tolist()
        records.append(own)
    coco = coco_of_masks([(r.size, r.objects, r.object_classes, r.crowd) for r in records], 2)
    results = [
        {"image_id": i, "category_id": k, "segmentation": rle, "score": s}
        for i, r in enumerate(records)
        for rle, k, s in zip(r.found, r.classes, r.scores, strict=True)
    ]
    expected = average_precision(evaluate_coco(coco, results), iou=0.5)
    costs = error_costs(records, [*map(find_errors, records)])
    assert costs["all"]["ap50"]["value"] == pytest.approx(expected, abs=0.2)


def test_the_part_that_loses_an_object():
    foreground = np.array([0.2, 1, 1, 1, 1])
    # proposals of 100, 200 and 30 cells; objects of 100
    shared = np.array([[0, 90, 0, 0, 0], [0, 0, 95, 0, 0], [0, 0, 0, 30, 0]], float)
    area = np.array([100.0, 200, 30]), np.full(5, 100.0)
    expected = [kinds.NO_FOREGROUND, kinds.HEADS, kinds.MERGED, kinds.TORN, kinds.TORN]
    assert label_map_cause(foreground, shared, area) == expected
    assert label_map_cause(np.ones(1), np.zeros((0, 1)), (np.zeros(0), np.ones(1))) == [kinds.NO_FOREGROUND]


def test_lost_objects_have_the_cause_of_their_part_and_a_wrong_class_is_one():
    own = record([(A, 1), (B, 0)], [(A, 0), (B, 0), (FAR, 0)], [kinds.HEADS, kinds.HEADS, kinds.MERGED])
    errors = find_errors(own)
    assert errors.objects == [kinds.WRONG_CLASS, "", kinds.MERGED]
    costs = error_costs([own], [errors])["own"]
    assert costs[kinds.MERGED]["count"] == 1 and costs[kinds.MERGED]["cost"] > 10
    assert costs[kinds.HEADS]["count"] == 0 and kinds.UNKNOWN not in costs


def test_a_detection_in_a_crowd_is_no_error():
    own = record([(A, 0)], [(A, 0)])
    own.crowd = [True]
    errors = find_errors(own)
    assert errors.found == [None] and errors.objects == [""] and errors.missed == [False]
    assert error_costs([own], [errors])["all"]["ap50"]["value"] == 0
