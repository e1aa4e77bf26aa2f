import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.evaluation import ContourF1Evaluator, contour_precision_recall
from dvis_d2.evaluation.contour_f1 import contour, f1, image_precision_recall
from dvis_d2.evaluation.mask_evaluator import GroundTruth

H, W = 30, 40
THRESHOLDS = np.array([1.0, 2, 5])
NO_VOID = np.zeros((H, W), dtype=bool)


def block(top, left, bottom, right):
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def truth(*objects, void=NO_VOID):
    """From (mask, class) or (mask, class, crowd)."""
    masks = np.array([o[0] for o in objects], dtype=bool).reshape(-1, H, W)
    crowd = np.array([len(o) > 2 for o in objects], dtype=bool)
    classes = np.array([o[1] for o in objects], dtype=np.int64)
    return GroundTruth(masks, classes, crowd, crowd, void)


def score(predicted, ground_truth):
    masks = np.array([p[0] for p in predicted], dtype=bool).reshape(-1, H, W)
    return image_precision_recall(masks, np.array([p[1] for p in predicted], dtype=np.int64), ground_truth, THRESHOLDS)


def test_contour_of_a_box_and_at_the_edge():
    assert np.array_equal(contour(block(5, 5, 10, 12)), block(5, 5, 10, 12) & ~block(6, 6, 9, 11))
    assert np.array_equal(contour(block(0, 0, 10, 10)), block(0, 0, 10, 10) & ~block(1, 1, 9, 9))
    assert not contour(NO_VOID).any()


def test_distances_must_be_less_than_the_threshold():
    # Vertical lines 2 px apart: 2 < 5 only.
    precision, recall = contour_precision_recall(block(0, 10, H, 11), block(0, 12, H, 13), THRESHOLDS, NO_VOID)
    assert precision.tolist() == recall.tolist() == [0, 0, 1]


def test_precision_and_recall_are_of_different_contours():
    # Predicted: one of the two lines. The paper's formula would give a recall of 1 - precision = 0.
    lines = block(0, 5, H, 6) | block(0, 30, H, 31)
    precision, recall = contour_precision_recall(block(0, 5, H, 6), lines, THRESHOLDS, NO_VOID)
    assert precision.tolist() == [1, 1, 1]
    assert recall.tolist() == [0.5, 0.5, 0.5]
    assert f1(precision, recall) == pytest.approx([2 / 3] * 3)


def test_unmatched_contour_points_in_void_count_neither_way():
    # A predicted line 2 px beside the true one, and one far off, both in void: the first matches at 5 only.
    predicted = block(0, 12, H, 13) | block(0, 30, H, 31) | block(0, 20, H, 21)
    void = block(0, 11, H, 14) | block(0, 28, H, 34)
    precision, recall = contour_precision_recall(predicted, block(0, 10, H, 11), THRESHOLDS, void)
    assert precision.tolist() == [0, 0, 0.5]
    assert recall.tolist() == [0, 0, 1]


def test_an_empty_mask_scores_nothing():
    for pair in ((NO_VOID, block(2, 2, 5, 5)), (block(2, 2, 5, 5), NO_VOID)):
        assert [v.tolist() for v in contour_precision_recall(*pair, THRESHOLDS, NO_VOID)] == [[0] * 3] * 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.4, 0.9]))
def test_agrees_with_all_distances(seed, density):
    rng = np.random.default_rng(seed)
    predicted, true, void = (rng.random((14, 17)) < d for d in (density, density, 0.2))

    def points(mask):
        def outside(y, x):
            return not (0 <= y < 14 and 0 <= x < 17 and mask[y, x])

        inside = np.argwhere(mask).tolist()
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
        return [(y, x) for y, x in inside if any(outside(y + dy, x + dx) for dy, dx in steps)]

    def nearest(point, others):
        return min(((point[0] - y) ** 2 + (point[1] - x) ** 2) ** 0.5 for y, x in others)

    ours = contour_precision_recall(predicted, true, THRESHOLDS, void)
    p, t = points(predicted), points(true)
    for k, threshold in enumerate(THRESHOLDS):
        if not p or not t:
            assert ours[0][k] == ours[1][k] == 0
            continue
        right = [nearest(point, t) < threshold for point in p]
        counted = sum(hit or not void[point] for hit, point in zip(right, p, strict=True))
        assert ours[0][k] == pytest.approx(sum(right) / max(counted, 1))
        assert ours[1][k] == pytest.approx(np.mean([nearest(point, p) < threshold for point in t]))


def test_classes_are_averaged_and_absent_ones_do_not_count():
    a, b = block(2, 2, 10, 10), block(15, 15, 25, 25)
    assert [v.tolist() for v in score([(a, 3)], truth((a, 3)))] == [[1] * 3] * 2
    missed = score([(a, 3)], truth((a, 3), (b, 0)))
    invented = score([(a, 3), (b, 0)], truth((a, 3)))
    for values in (*missed, *invented):
        assert values == pytest.approx([0.5] * 3)


def test_objects_of_a_class_are_united():
    left, right = block(2, 2, 10, 10), block(2, 10, 10, 20)  # they touch: no contour between them
    assert np.array(score([(left | right, 1)], truth((left, 1), (right, 1)))) == pytest.approx(1)


def test_nothing_to_judge():
    assert score([], truth()) is None
    assert score([(block(2, 2, 5, 5), 1)], truth(void=block(0, 0, 10, 10))) is None
    assert score([(block(2, 2, 5, 5), 1)], truth((block(0, 0, 10, 10), 1, "crowd"))) is None


@pytest.fixture
def data():
    masks = {"a": block(2, 2, 10, 10), "b": block(5, 5, 20, 20), "c": None}
    size = {"height": H, "width": W}
    entries = [
        {"image_id": k, "file_name": k, **size, "annotations": [{"segmentation": m, "category_id": 0}][: m is not None]}
        for k, m in masks.items()
    ]
    DatasetCatalog.register("for_contours", lambda: entries)
    MetadataCatalog.get("for_contours").set(thing_classes=["x", "y"])
    yield masks
    DatasetCatalog.pop("for_contours")
    MetadataCatalog.pop("for_contours")


def test_f1_is_averaged_over_images(data):
    import torch
    from detectron2.structures import Instances

    def output(*detections):
        instances = Instances((H, W))
        instances.pred_masks = torch.from_numpy(np.array([d[0] for d in detections], bool).reshape(-1, H, W))
        instances.scores = torch.tensor([d[1] for d in detections])
        instances.pred_classes = torch.zeros(len(detections), dtype=torch.int64)
        return {"instances": instances}

    far = block(22, 30, 28, 38)
    evaluator = ContourF1Evaluator("for_contours", thresholds=(1, 3))
    evaluator.process([{"image_id": "a"}], [output((data["a"], 0.9), (far, 0.4))])  # the second is too uncertain
    evaluator.process([{"image_id": "b"}, {"image_id": "c"}], [output(), output()])  # missed; nothing there
    results = evaluator.evaluate()["contour"]
    assert list(results) == ["F1@1", "F1@3", "P@1", "P@3", "R@1", "R@3"]
    assert list(results.values()) == pytest.approx([50] * 6)  # 100 and 0; the image without anything is left out
    evaluator.reset()
    assert all(np.isnan(v) for v in evaluator.evaluate()["contour"].values())
