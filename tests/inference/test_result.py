import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.result import MEASUREMENTS, Result, trace_mask


def make_result(masks, scores=None, classes=None, pixels=None):
    masks = np.asarray(masks, dtype=bool)
    k, size = len(masks), masks.shape[1:]
    cropped = CroppedMasks.from_masks(masks)
    image = np.full((*size, 3), 100, np.uint8)
    return Result(
        masks=cropped,
        boxes=cropped.boxes.astype(np.float32),
        scores=np.asarray(np.linspace(0.9, 0.5, k) if scores is None else scores, dtype=np.float32),
        classes=np.zeros(k, np.int64) if classes is None else np.asarray(classes, dtype=np.int64),
        class_names=["ring", "disc"],
        image=image,
        pixels=image if pixels is None else pixels,
    )


def ring():
    """10 x 12, a square of 6 with a hole of 2, from x 3, y 2."""
    mask = np.zeros((10, 12), bool)
    mask[2:8, 3:9] = True
    mask[4:6, 5:7] = False
    return mask


def box(x0, y0, x1, y1, size=(10, 12)):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def rasterize(polygons, size):
    """bool (h, w): pixels whose centers lie inside by the even-odd rule over all rings."""
    height, width = size
    crossings = np.zeros(size, int)
    for rings in polygons:
        for points in rings:
            for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
                assert (xa == xb) != (ya == yb)  # along one axis, and no point twice
                if xa == xb:
                    crossings[min(ya, yb) : max(ya, yb)] += np.arange(width) + 0.5 < xa
    return crossings % 2 == 1


def area(points):
    x, y = points.T
    return abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


def test_a_ring_is_a_square_with_a_hole():
    ((outer, hole),) = trace_mask(ring())
    assert {tuple(p) for p in outer} == {(3, 2), (9, 2), (9, 8), (3, 8)}
    assert {tuple(p) for p in hole} == {(5, 4), (7, 4), (7, 6), (5, 6)}


def test_parts_that_touch_at_a_corner_are_polygons_of_their_own():
    polygons = trace_mask(np.eye(2, dtype=bool), start=(10, 20))
    assert [[sorted(map(tuple, r)) for r in rings] for rings in polygons] == [
        [[(10, 20), (10, 21), (11, 20), (11, 21)]],
        [[(11, 21), (11, 22), (12, 21), (12, 22)]],
    ]


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_are_exact(mask):
    polygons = trace_mask(mask)
    assert np.array_equal(rasterize(polygons, mask.shape), mask)
    assert sum(area(outer) - sum(map(area, holes)) for outer, *holes in polygons) == mask.sum()
    for rings in polygons:
        for points in rings:
            assert len({tuple(p) for p in points}) == len(points)  # no ring touches itself


def test_the_best_is_on_top_whatever_the_order():
    first, second = box(0, 0, 6, 6), box(4, 4, 10, 10)
    labels = make_result([first, second], scores=[0.5, 0.9]).label_image()
    assert labels.dtype == np.int32 and labels[0, 0] == 1 and labels[5, 5] == labels[9, 9] == 2 and labels[0, 9] == 0
    assert make_result([first, second], scores=[0.9, 0.5]).label_image()[5, 5] == 1
    assert make_result(np.zeros((0, 4, 5))).label_image().shape == (4, 5)


def test_coco_results_are_those_of_the_whole_mask():
    result = make_result([ring(), box(1, 1, 3, 2)], classes=[1, 0])
    rows = result.to_coco(image_id=7)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["category_id"] for row in rows] == [2, 1] and rows[0]["image_id"] == 7
    assert [r["category_id"] for r in result.to_coco(category_ids=[30, 40])] == [40, 30]
    assert rows[0]["bbox"] == [3, 2, 6, 6] and rows[0]["area"] == 32 and rows[0]["score"] == pytest.approx(0.9)
    assert np.array_equal(mask_util.decode(rows[0]["segmentation"]).astype(bool), ring())


def test_geojson_has_closed_rings_holes_and_parts():
    collection = json.loads(json.dumps(make_result([ring(), np.eye(10, 12, dtype=bool)], classes=[0, 1]).to_geojson()))
    one, many = collection["features"]
    assert one["geometry"]["type"] == "Polygon" and len(one["geometry"]["coordinates"]) == 2
    assert all(r[0] == r[-1] and len(r) == 5 for r in one["geometry"]["coordinates"])
    assert many["geometry"]["type"] == "MultiPolygon" and len(many["geometry"]["coordinates"]) == 10
    assert many["properties"]["classification"]["name"] == "disc"
    assert one["properties"]["measurements"]["score"] == pytest.approx(0.9)


def test_measurements_by_hand():
    pixels = np.zeros((10, 12), np.uint16)
    pixels[1, 1:3] = 1000, 3000
    rows = make_result([ring(), box(1, 1, 3, 2)], pixels=pixels).measurements()
    assert tuple(rows[0]) == MEASUREMENTS
    assert rows[0] | {"diameter": 0} == {
        "label": 1,
        "class": "ring",
        "score": pytest.approx(0.9),
        "area": 32,
        "centroid_x": 6.0,
        "centroid_y": 5.0,
        **{"x0": 3, "y0": 2, "x1": 9, "y1": 8},
        "diameter": 0,
        "mean_intensity": 0.0,
    }
    assert rows[0]["diameter"] == pytest.approx(2 * (32 / np.pi) ** 0.5, abs=1e-3)
    assert rows[1]["mean_intensity"] == 2000 and (rows[1]["centroid_x"], rows[1]["centroid_y"]) == (2.0, 1.5)


def test_some_of_the_objects():
    result = make_result([ring(), box(1, 1, 3, 2), box(0, 0, 4, 4)], scores=[0.9, 0.6, 0.8])
    good = result[result.scores > 0.7]
    assert len(good) == 2 and good.masks.areas().tolist() == [32, 16] and good.boxes.shape == (2, 4)
    assert len(result[1]) == 1 and repr(result) == "Result(3 objects in 12 x 10 pixels)"


def test_plot_draws_objects_and_leaves_the_rest_and_the_image():
    result = make_result([box(2, 14, 30, 38, size=(40, 60))])
    drawn = np.asarray(result.plot())
    assert drawn.shape == (40, 60, 3) and (drawn[25:, 35:] == 100).all() and (result.image == 100).all()
    assert np.abs(drawn[30, 15].astype(int) - 100).max() > 20


def test_to_instances_and_back():
    instances = make_result([ring()]).to_instances()
    assert instances.image_size == (10, 12) and torch.equal(instances.pred_masks[0], torch.from_numpy(ring()))
    assert instances.pred_boxes.tensor.tolist() == [[3, 2, 9, 8]] and instances.pred_classes.tolist() == [0]


def test_to_supervision():
    supervision = pytest.importorskip("supervision", exc_type=ImportError)
    detections = make_result([ring()]).to_supervision()
    assert isinstance(detections, supervision.Detections) and np.array_equal(detections.mask[0], ring())
    assert detections.data["class_name"].tolist() == ["ring"]
    assert detections.xyxy.tolist() == [[3, 2, 9, 8]] and detections.area.tolist() == [32]
    last_pixels = supervision.mask_to_xyxy(detections.mask)  # its own boxes end on them, its crops before x1, y1
    assert (last_pixels + [0, 0, 1, 1]).tolist() == detections.xyxy.tolist()
    assert detections.class_id.tolist() == [0] and detections.confidence.tolist() == pytest.approx([0.9])
    assert len(make_result(np.zeros((0, 10, 12))).to_supervision()) == 0


def test_to_supervision_without_it_names_the_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        make_result([ring()]).to_supervision()


def test_nothing_found():
    result = make_result(np.zeros((0, 10, 12)))
    assert result.polygons() == result.to_coco() == result.measurements() == [] and len(result.plot().tobytes()) == 360
    assert result.to_geojson()["features"] == [] and result.to_instances().pred_masks.shape == (0, 10, 12)
    assert cv2.countNonZero(result.label_image()) == 0
