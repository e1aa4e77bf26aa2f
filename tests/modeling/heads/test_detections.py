import math

import pytest
import torch

from dvis_d2.modeling.heads.detections import MAX_CANDIDATES, detect, fuse_scores, matrix_nms, select_detections


def strips(*ranges, size=16):
    """A mask for every (start, end) of columns of a map one row high: IoUs are ratios of lengths."""
    masks = torch.zeros(len(ranges), 1, size, dtype=torch.bool)
    for mask, (start, end) in zip(masks, ranges, strict=True):
        mask[:, start:end] = True
    return masks


def test_sum_and_product_by_hand():
    ious, classes = torch.tensor([0.25, 1.0, 0.0]), torch.tensor([0.81, 0.5, 0.9])
    sums = fuse_scores(ious, classes, alpha=0.25, fusion="sum")
    assert sums.tolist() == pytest.approx([0.25 * 0.25 + 0.75 * 0.81, 0.625, 0.675])
    products = fuse_scores(ious, classes, alpha=0.5, fusion="product")
    assert products.tolist() == pytest.approx([0.5 * 0.9, math.sqrt(0.5), 0.0])


@pytest.mark.parametrize("fusion", ["sum", "product"])
def test_fusion_at_the_ends_of_alpha_without_classes_and_of_nothing(fusion):
    ious, classes = torch.tensor([0.25, 0.0]), torch.tensor([0.81, 0.0])
    torch.testing.assert_close(fuse_scores(ious, classes, alpha=1.0, fusion=fusion), ious)
    torch.testing.assert_close(fuse_scores(ious, classes, alpha=0.0, fusion=fusion), classes)
    assert fuse_scores(ious, None, alpha=0.3, fusion=fusion) is ious
    assert fuse_scores(ious[:0], classes[:0], alpha=0.3, fusion=fusion).shape == (0,)


def detections_of(ious, class_probs, **options):
    options = {"alpha": 0.5, "fusion": "sum", "score_threshold": 0.1, "nms_threshold": 0.5} | options
    masks = strips(*((4 * i, 4 * i + 4) for i in range(len(ious))), size=4 * len(ious))
    probs = None if class_probs is None else torch.tensor(class_probs)
    rows, classes, scores = detect(masks, torch.tensor(ious), probs, **({"max_detections": 100} | options))
    return rows.tolist(), classes.tolist(), scores.tolist()


def test_a_proposal_is_a_detection_of_every_probable_class():
    rows, classes, scores = detections_of([0.8, 0.6], [[0.6, 0.3, 0.05], [0.02, 0.04, 0.03]])
    # the second proposal has its best class only, and its score from the IoU alone would pass for all three
    assert (rows, classes) == ([0, 0, 1], [0, 1, 1])
    assert scores == pytest.approx([0.7, 0.55, 0.32])
    rows, classes, scores = detections_of([0.8, 0.6], [[0.6, 0.3, 0.05], [0.02, 0.04, 0.03]], fusion="product")
    assert (rows, classes) == ([0, 0, 1], [0, 1, 1])
    assert scores == pytest.approx([math.sqrt(0.48), math.sqrt(0.24), math.sqrt(0.024)])


def test_one_proposal_in_two_classes_is_one_object_where_suppression_is_over_all():
    rows, classes, scores = detections_of([0.8], [[0.6, 0.3]], class_agnostic_nms=True)
    assert (rows, classes, scores) == ([0], [0], pytest.approx([0.7]))


def test_without_classes_there_is_one_detection_a_proposal():
    assert detections_of([0.3, 0.9], None) == ([1, 0], [0, 0], pytest.approx([0.9, 0.3]))
    assert detections_of([], None) == ([], [], [])


def test_probabilities_that_are_not_finite_give_nothing():
    nan = float("nan")
    assert detections_of([0.8, nan], [[nan, nan], [0.9, 0.1]]) == ([], [], [])


def test_only_the_best_pairs_of_proposal_and_class_are_compared():
    count = MAX_CANDIDATES + 50
    probs = [[0.2 + 0.5 * i / count] for i in range(count)]
    probs[7] = [float("nan")]
    rows, _, _ = detections_of([0.5] * count, probs, max_detections=2 * count)
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
    options = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100} | options
    classes = torch.zeros(len(masks), dtype=torch.int64) if classes is None else torch.tensor(classes)
    rows, scores = select_detections(masks, torch.tensor(scores), classes, **options)
    return rows.tolist(), pytest.approx(scores.tolist())


@pytest.mark.parametrize("nms", ["hard", "matrix"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_nothing_in_nothing_out(nms, agnostic):
    assert select(strips(), [], nms=nms, class_agnostic_nms=agnostic) == ([], [])
    # nothing passes the threshold
    assert select(strips((0, 4)), [0.01], nms=nms, class_agnostic_nms=agnostic) == ([], [])


def test_hard_suppression_within_a_class_and_over_all():
    masks, scores = strips((0, 8), (0, 7), (0, 6), (10, 12)), [0.6, 0.9, 0.7, 0.8]
    assert select(masks, scores, [0, 0, 1, 1]) == ([1, 3, 2], [0.9, 0.8, 0.7])
    assert select(masks, scores, [0, 0, 1, 1], class_agnostic_nms=True) == ([1, 3], [0.9, 0.8])
    assert select(masks, scores, [0, 0, 1, 1], nms_threshold=0.99) == ([1, 3, 2, 0], [0.9, 0.8, 0.7, 0.6])


def test_matrix_selection_gives_decayed_scores_in_their_order_and_thresholds_those():
    masks, scores = strips((0, 8), (0, 8), (10, 12)), [0.6, 0.9, 0.5]
    duplicate = 0.6 * math.exp(-2)  # 0.081
    assert select(masks, scores, nms="matrix") == ([1, 2, 0], [0.9, 0.5, duplicate])
    assert select(masks, scores, nms="matrix", score_threshold=0.1) == ([1, 2], [0.9, 0.5])
    assert select(masks, scores, nms="matrix", max_detections=1) == ([1], [0.9])
    # of other classes they are no duplicates, unless all are one class
    assert select(masks, scores, [0, 1, 1], nms="matrix") == ([1, 0, 2], [0.9, 0.6, 0.5])
    agnostic = select(masks, scores, [0, 1, 1], nms="matrix", class_agnostic_nms=True)
    assert agnostic == ([1, 2, 0], [0.9, 0.5, duplicate])


@pytest.mark.parametrize("nms", ["hard", "matrix"])
def test_only_finite_scores_survive_and_others_suppress_nothing(nms):
    masks = strips((0, 8), (0, 8), (0, 8), (10, 12))
    scores = [float("nan"), float("inf"), 0.6, -float("inf")]
    assert select(masks, scores, nms=nms, score_threshold=0.0) == ([2], [0.6])
