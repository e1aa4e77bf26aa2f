import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.evaluation import match_detections, pascal_average_precision

TP, FP, NEITHER = 1, 0, -1


def match(overlaps, scores, ignored=None, thresholds=(0.5,), void_only=None):
    overlaps = np.array(overlaps, dtype=float)
    count, objects = overlaps.shape
    ignored = np.zeros(objects, bool) if ignored is None else np.array(ignored)
    void_only = np.zeros(count, bool) if void_only is None else np.array(void_only)
    outcomes = match_detections(overlaps, np.array(scores), ignored, np.array(thresholds), void_only)
    assert outcomes.shape == (count, len(thresholds))
    return outcomes[:, 0].tolist() if len(thresholds) == 1 else outcomes.tolist()


def test_the_more_certain_detection_gets_the_object():
    assert match([[0.6], [0.9]], [0.8, 0.7]) == [TP, FP]
    assert match([[0.6], [0.9]], [0.7, 0.8]) == [FP, TP]
    assert match([[0.6], [0.9]], [0.7, 0.7]) == [TP, FP]  # the first of equals


def test_the_overlap_must_reach_the_threshold():
    assert match([[0.5]], [0.1], thresholds=(0.4, 0.5, 0.6)) == [[TP, TP, FP]]


def test_a_detection_stands_for_the_object_it_overlaps_most():
    # The second detection would do for the second object at 0.3, but overlaps the first one, which is taken, more.
    assert match([[0.9, 0.0], [0.5, 0.4]], [0.9, 0.8], thresholds=(0.3,)) == [TP, FP]


def test_thresholds_are_independent():
    # At 0.7 the first detection misses, which leaves the object to the second.
    assert match([[0.6], [0.8]], [0.9, 0.8], thresholds=(0.5, 0.7)) == [[TP, FP], [FP, TP]]


def test_ignored_objects_count_neither_way_and_are_never_used_up():
    assert match([[0.8], [0.7], [0.2]], [0.9, 0.8, 0.7], ignored=[True]) == [NEITHER, NEITHER, FP]


def test_objects_go_before_ignored_regions():
    overlaps = [[0.6, 0.9], [0.7, 0.9], [0.1, 0.2]]
    assert match(overlaps, [0.9, 0.8, 0.7], ignored=[False, True]) == [TP, NEITHER, FP]


def test_detections_in_void():
    assert match([[0.0], [0.0]], [0.9, 0.8], void_only=[True, False]) == [NEITHER, FP]


def test_without_objects_or_detections():
    assert match(np.zeros((2, 0)), [0.5, 0.6]) == [FP, FP]
    assert match(np.zeros((0, 3)), []) == []


def test_precision_recall_curve_by_hand():
    # Descending: TP FP TP FP FP TP of 4 objects. Precision 1, 1/2, 2/3, 1/2, 2/5, 1/2; recall 1/4, 2/4, 3/4 at the TPs.
    # Monotone precision there: 1, 2/3, 1/2; recall 1 is never reached.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    outcomes = np.array([TP, FP, TP, FP, FP, TP])
    assert pascal_average_precision(scores, outcomes, 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    shuffled = np.array([3, 0, 5, 1, 4, 2])
    assert pascal_average_precision(scores[shuffled], outcomes[shuffled], 4) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)


def test_precision_rises_again():
    # FP TP TP of 2: precision 0, 1/2, 2/3, monotone 2/3 everywhere.
    assert pascal_average_precision(np.array([3.0, 2, 1]), np.array([FP, TP, TP]), 2) == pytest.approx(2 / 3)


def test_ignored_detections_do_not_matter():
    scores, outcomes = np.array([0.9, 0.8, 0.7]), np.array([NEITHER, TP, NEITHER])
    assert pascal_average_precision(scores, outcomes, 1) == 1
    assert pascal_average_precision(scores[:1], outcomes[:1], 1) == 0


def test_nothing_detected_and_nothing_to_detect():
    empty = np.empty(0)
    assert pascal_average_precision(empty, empty.astype(int), 3) == 0
    assert np.isnan(pascal_average_precision(np.array([0.5]), np.array([FP]), 0))


def naive_average_precision(scores, outcomes, num_objects):
    """For each object found, the best precision at that recall or more."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = [outcomes[i] for i in order if outcomes[i] != NEITHER]
    points = [(kept[:n].count(TP), kept[:n].count(TP) / n) for n in range(1, len(kept) + 1)]
    total = 0.0
    for found in range(1, num_objects + 1):
        total += max((precision for hits, precision in points if hits >= found), default=0.0)
    return total / num_objects


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([TP, FP, NEITHER])), max_size=14), st.integers(0, 4))
def test_area_agrees_with_a_sum_over_objects(detections, missed):
    scores = np.array([s / 5 for s, _ in detections])
    outcomes = np.array([o for _, o in detections], dtype=int)
    num_objects = max(1, int((outcomes == TP).sum()) + missed)
    expected = naive_average_precision(scores.tolist(), outcomes.tolist(), num_objects)
    assert pascal_average_precision(scores, outcomes, num_objects) == pytest.approx(expected)
