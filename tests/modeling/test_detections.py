import math

import pytest
import torch

from dvis_d2.modeling.detections import MAX_CANDIDATES, detect, weighted_by_masks
from dvis_d2.modeling.masks import matrix_nms


def strips(*ranges, size=16):
    """A mask for every (start, end) of columns of a map one row high: IoUs are ratios of lengths."""
    masks = torch.zeros(len(ranges), 1, size, dtype=torch.bool)
    for mask, (start, end) in zip(masks, ranges, strict=True):
        mask[:, start:end] = True
    return masks


def detections_of(ious, class_probs, **options):
    options = {"alpha": 0.5, "score_threshold": 0.1, "nms_threshold": 0.5} | options
    masks = strips(*((4 * i, 4 * i + 4) for i in range(len(ious))), size=4 * len(ious))
    probs = torch.tensor(class_probs).reshape(len(ious), -1 if ious else 1)
    rows, classes, scores = detect(masks, torch.tensor(ious), probs, **({"max_detections": 100} | options))
    return rows.tolist(), classes.tolist(), scores.tolist()


def test_a_proposal_is_a_detection_of_every_probable_class():
    rows, classes, scores = detections_of([0.8, 0.6], [[0.6, 0.3, 0.05], [0.02, 0.04, 0.03]])
    # the second proposal has its best class only, and its score from the IoU alone would pass for all three
    assert (rows, classes) == ([0, 0, 1], [0, 1, 1])
    assert scores == pytest.approx([0.7, 0.55, 0.32])


@pytest.mark.parametrize("alpha, expected", [(1.0, 0.8), (0.0, 0.6), (0.25, 0.25 * 0.8 + 0.75 * 0.6)])
def test_alpha_weighs_the_iou_against_the_class(alpha, expected):
    assert detections_of([0.8], [[0.6]], alpha=alpha)[2] == [pytest.approx(expected)]


def test_of_one_class_there_is_one_detection_a_proposal():
    assert detections_of([0.3, 0.9], [[0.3], [0.9]]) == ([1, 0], [0, 0], pytest.approx([0.9, 0.3]))
    assert detections_of([], []) == ([], [], [])


@pytest.mark.parametrize("nms", ["hard", "matrix"])
def test_what_a_user_sees_does_not_lie_by_more_than_half_on_a_better_one(nms):
    masks = strips(
        (0, 8), (6, 10), (5, 9), (9, 16), (0, 16)
    )  # shares on the first: 1/2, 3/4, 0, and 1/2 of a large one
    ious, probs = torch.tensor([0.9, 0.85, 0.88, 0.8, 0.75]), torch.eye(3)[[0, 0, 1, 2, 1]]
    options = dict(alpha=0.5, nms_threshold=1.0, max_detections=10, nms=nms)
    for threshold, expected in [(0.2, [0, 1, 2, 3, 4]), (0.21, [0, 1, 3, 4])]:
        assert sorted(detect(masks, ious, probs, score_threshold=threshold, **options)[0].tolist()) == expected
    # what is left out covers nothing itself, and of a proposal with two classes the better one is left
    rows, classes, _ = detect(masks[:1], ious[:1], torch.tensor([[0.4, 0.6]]), score_threshold=0.3, **options)
    assert (rows.tolist(), classes.tolist()) == ([0], [1])


def test_probabilities_that_are_not_finite_give_nothing():
    nan = float("nan")
    assert detections_of([0.8, nan], [[nan, nan], [0.9, 0.1]]) == ([], [], [])


def test_only_the_best_pairs_of_proposal_and_class_are_compared():
    count = MAX_CANDIDATES + 50
    probs = [[0.2 + 0.5 * i / count] for i in range(count)]
    probs[7] = [float("nan")]
    rows, _, _ = detections_of([0.5] * count, probs, max_detections=MAX_CANDIDATES // 2)
    assert rows == list(range(count - 1, count - 1 - MAX_CANDIDATES // 2, -1))
    rows, _, _ = detections_of([0.5] * count, probs, max_detections=MAX_CANDIDATES)  # twice as many are compared
    assert rows == list(range(count - 1, count - 1 - MAX_CANDIDATES, -1))


def test_matrix_nms_by_hand():
    # IoU of the first with the second 1/2, of the second with the third 1/4, of the first with the third 0
    masks, scores = strips((0, 8), (4, 8), (7, 8)), torch.tensor([0.9, 0.8, 0.7])
    iou_13 = 1 / 8
    # the third: the first does not suffer itself; the second is half a duplicate, so it counts less
    by_first, by_second = math.exp(-(iou_13**2) / 0.5), math.exp(-(0.25**2) / 0.5) / math.exp(-(0.5**2) / 0.5)
    assert by_first < 1 < by_second
    expected = [0.9, 0.8 * math.exp(-(0.5**2) / 0.5), 0.7 * by_first]
    assert matrix_nms(masks, scores).tolist() == pytest.approx(expected)
    # the third in a class with the second alone
    expected = [0.9, 0.8, 0.7 * math.exp(-(0.25**2) / 0.5)]
    assert matrix_nms(masks, scores, torch.tensor([0, 1, 1])).tolist() == pytest.approx(expected)


def oracle_matrix_nms(masks, scores, classes):
    """The formula, one proposal after the other."""

    def iou(i, j):
        return float((masks[i] & masks[j]).sum()) / max(float((masks[i] | masks[j]).sum()), 1)

    def better(j):
        ahead = [i for i in range(len(scores)) if (-scores[i], i) < (-scores[j], j)]
        return [i for i in ahead if classes[i] == classes[j]]

    def decay(j):
        factors = [1.0]
        for i in better(j):
            compensation = max((iou(k, i) for k in better(i)), default=0.0)
            factors.append(math.exp(-(iou(i, j) ** 2) / 0.5) / math.exp(-(compensation**2) / 0.5))
        return min(factors)

    return [float(scores[j]) * decay(j) for j in range(len(scores))]


@pytest.mark.parametrize("seed", range(20))
def test_matrix_nms_is_the_formula(seed):
    generator = torch.Generator().manual_seed(seed)
    count = seed % 9 + 1
    masks = torch.rand(count, 4, 5, generator=generator) < 0.6
    scores = torch.randint(1, 6, (count,), generator=generator) / 5  # with ties
    classes = torch.randint(0, 2, (count,), generator=generator)
    assert matrix_nms(masks, scores, classes).tolist() == pytest.approx(oracle_matrix_nms(masks, scores, classes))
    one_class = torch.zeros_like(classes)
    assert matrix_nms(masks, scores).tolist() == pytest.approx(oracle_matrix_nms(masks, scores, one_class))


def test_of_equal_scores_the_first_keeps_its_own():
    masks, scores = strips((0, 4), (0, 4), (0, 4)), torch.tensor([0.6, 0.6, 0.6])
    # the second is a whole duplicate of the first; so is the third, which the second no longer lowers
    assert matrix_nms(masks, scores).tolist() == pytest.approx([0.6, 0.6 * math.exp(-2), 0.6 * math.exp(-2)])


def select(masks, scores, classes=None, **options):
    """Detections of proposals whose IoU and class probability are both the score."""
    options = {"alpha": 0.5, "score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100} | options
    scores = torch.tensor(scores)
    probs = torch.zeros(len(scores), 2)
    probs[torch.arange(len(scores)), torch.tensor(classes or [0] * len(scores), dtype=torch.int64)] = scores
    rows, _, scores = detect(masks, scores, probs, **options)
    return rows.tolist(), pytest.approx(scores.tolist())


@pytest.mark.parametrize("nms", ["hard", "matrix"])
def test_nothing_in_nothing_out(nms):
    assert select(strips(), [], nms=nms) == ([], [])
    # nothing passes the threshold
    assert select(strips((0, 4)), [0.01], nms=nms) == ([], [])


def test_hard_suppression_is_within_a_class():
    masks, scores = strips((0, 8), (0, 7), (0, 6), (10, 12)), [0.6, 0.9, 0.7, 0.8]
    assert select(masks, scores, [0, 0, 1, 1]) == ([1, 3, 2], [0.9, 0.8, 0.7])
    assert select(masks, scores, [0, 0, 1, 1], nms_threshold=0.99) == ([1, 3, 2, 0], [0.9, 0.8, 0.7, 0.6])


def test_matrix_selection_gives_decayed_scores_in_their_order_and_thresholds_those():
    masks, scores = strips((0, 8), (0, 8), (10, 12)), [0.6, 0.9, 0.5]
    duplicate = 0.6 * math.exp(-2)  # 0.081
    assert select(masks, scores, nms="matrix") == ([1, 2, 0], [0.9, 0.5, duplicate])
    assert select(masks, scores, nms="matrix", score_threshold=0.1) == ([1, 2], [0.9, 0.5])
    assert select(masks, scores, nms="matrix", max_detections=1) == ([1], [0.9])
    # of other classes they are no duplicates
    assert select(masks, scores, [0, 1, 1], nms="matrix") == ([1, 0, 2], [0.9, 0.6, 0.5])


@pytest.mark.parametrize("nms", ["hard", "matrix"])
def test_only_finite_scores_survive_and_others_suppress_nothing(nms):
    masks = strips((0, 8), (0, 8), (0, 8), (10, 12))
    ious, probs = torch.tensor([float("nan"), float("inf"), 0.6, -float("inf")]), torch.full((4, 1), 0.6)
    options = {"score_threshold": 0.0, "nms_threshold": 0.5, "max_detections": 100}
    rows, _, scores = detect(masks, ious, probs, alpha=0.5, nms=nms, **options)
    assert rows.tolist() == [2] and scores.tolist() == [pytest.approx(0.6)]


def test_scores_are_weighted_by_the_mean_of_the_mask_where_it_reaches_a_half():
    nan = float("nan")
    flat = [0.9, 0.5, 0.4, 0.0], [1.0, 0.0, 0.0, 0.0], [0.4] * 4, [nan, 1.0, 0.0, 0.0]
    probs = torch.tensor(flat).reshape(4, 2, 2)
    order, scores = weighted_by_masks(torch.tensor([0.8, 0.6, 0.9, 0.9]), probs, 0.3)
    assert order.tolist() == [1, 0] and scores.tolist() == pytest.approx([0.6, 0.56])
    assert weighted_by_masks(torch.tensor([0.8, 0.6]), probs[:2], 0.58)[0].tolist() == [1]
    assert len(weighted_by_masks(torch.zeros(0), torch.zeros(0, 2, 2), 0.0)[0]) == 0
