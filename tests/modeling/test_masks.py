import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dvis_d2.modeling.masks import mask_boxes, mask_iou, mask_nms, matrix_nms


def rectangle(size, y0, y1, x0, x1):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5), st.floats(0, 0.3))
def test_boxes_are_those_of_detectron2(seed, count, density):
    masks = torch.from_numpy(np.random.default_rng(seed).random((count, 7, 5)) < density)
    assert torch.equal(mask_boxes(masks), BitMasks(masks).get_bounding_boxes().tensor)


def test_iou_by_hand():
    a = torch.stack([rectangle((4, 6), 0, 2, 0, 4), rectangle((4, 6), 0, 0, 0, 0)])  # 8 pixels, none
    b = torch.stack([rectangle((4, 6), 0, 4, 2, 4), a[1]])  # 8 pixels, 4 shared
    assert mask_iou(a, b).tolist() == [[pytest.approx(4 / 12), 0], [0, 0]]


def test_iou_of_nothing():
    none, two = torch.zeros(0, 3, 4, dtype=torch.bool), torch.ones(2, 3, 4, dtype=torch.bool)
    assert mask_iou(none, two).shape == (0, 2)
    assert mask_iou(two, none).shape == (2, 0)
    with pytest.raises(ValueError, match="size"):
        mask_iou(two, torch.ones(2, 4, 4, dtype=torch.bool))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_iou_matches_pycocotools(seed, count_a, count_b):
    rng = np.random.default_rng(seed)
    a, b = rng.random((count_a, 9, 7)) < 0.4, rng.random((count_b, 9, 7)) < rng.random()
    a[0], b[0] = True, True  # pycocotools has no IoU for two empty masks
    encoded = [[coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks] for masks in (a, b)]
    expected = coco_mask.iou(*encoded, [0] * count_b)
    both_empty = ~a.any((1, 2))[:, None] & ~b.any((1, 2))
    expected = np.where(both_empty, 0, expected)
    assert mask_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy() == pytest.approx(expected)


def test_iou_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 31, 17, generator=generator) > 0.5
    whole = mask_iou(masks, masks)
    monkeypatch.setitem(mask_iou.__globals__, "_CHUNK", 64)
    assert torch.equal(mask_iou(masks, masks), whole)


def test_nms_keeps_the_best_and_is_greedy():
    size = (1, 40)
    masks = torch.stack([rectangle(size, 0, 1, x, x + 10) for x in (0, 3, 6, 30)])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.7])
    # IoU of neighbors 7/13; the first and the third overlap by 4/16 only. The second suppresses both.
    assert mask_nms(masks, scores, 0.5).tolist() == [1, 3]
    assert mask_nms(masks, scores, 0.6).tolist() == [1, 3, 0, 2]
    # When the middle one is the worst, it suppresses nothing, as it is suppressed itself.
    assert mask_nms(masks, torch.tensor([0.9, 0.5, 0.4, 0.7]), 0.5).tolist() == [0, 3, 2]


def test_equal_masks_are_duplicates_at_any_threshold():
    masks = torch.stack([rectangle((4, 6), 0, 2, 0, 4), rectangle((4, 6), 0, 2, 0, 4), rectangle((4, 6), 0, 2, 0, 5)])
    assert mask_nms(masks, torch.tensor([0.5, 0.9, 0.7]), 1.0).tolist() == [1, 2]


def test_nms_by_class():
    masks = torch.ones(4, 2, 2, dtype=torch.bool)
    scores = torch.tensor([0.1, 0.9, 0.8, 0.8])
    assert mask_nms(masks, scores, 0.5).tolist() == [1]
    assert mask_nms(masks, scores, 0.5, classes=torch.tensor([0, 0, 1, 1])).tolist() == [1, 2]


def test_nms_of_nothing():
    kept = mask_nms(torch.zeros(0, 2, 2, dtype=torch.bool), torch.zeros(0), 0.5)
    assert kept.dtype == torch.int64 and kept.shape == (0,)


@pytest.mark.parametrize("dense", [0, 16, 1e9])  # which of the two ways the overlaps are counted
@pytest.mark.parametrize("seed", range(20))
def test_nms_is_greedy_over_the_iou_of_all_pairs(seed, dense, monkeypatch):
    rng = np.random.default_rng(seed)
    masks = np.zeros((int(rng.integers(1, 12)), *rng.integers(1, 24, 2)), dtype=bool)
    for mask in masks:
        y, x, height, width = rng.integers(0, 12, 4)
        mask[y : y + height, x : x + width] = rng.random() < 0.9
    rows, threshold = rng.integers(0, len(masks), 15), float(rng.choice([0, 0.3, 0.8, 1]))
    scores, classes = rng.random(15).round(1), rng.integers(0, 2, 15)
    iou, kept = mask_iou(masks, masks)[rows][:, rows], []
    for k in np.argsort(-scores, kind="stable").tolist():
        better = [iou[j, k] for j in kept if classes[j] == classes[k]]
        if all(value <= threshold and value != 1 for value in better):
            kept.append(k)
    monkeypatch.setitem(matrix_nms.__wrapped__.__globals__, "_DENSE", dense)
    assert mask_nms(masks, scores, threshold, classes, rows).tolist() == kept
    assert np.array_equal(matrix_nms(masks, scores, classes, rows), matrix_nms(masks[rows], scores, classes))
