import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dvis_d2.modeling.masks import mask_boxes, mask_iou, mask_nms, upsample_soft_masks


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


def test_a_cell_covers_its_pixels():
    soft = torch.zeros(1, 4, 5)
    soft[0, 1:3, 2:4] = 1
    masks = upsample_soft_masks(soft, stride=4, image_size=(16, 20))
    # Between a full and an empty cell the membership is one half at the border of their pixels.
    expected = F.interpolate(soft[None], scale_factor=4, mode="bilinear", align_corners=False)[0] >= 0.5
    assert torch.equal(masks, expected)
    assert masks[0, 6, 8:16].all() and not masks[0, 6, :8].any() and not masks[0, 6, 16:].any()
    assert not masks[0, :4].any() and not masks[0, 12:].any()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stride=st.sampled_from([1, 2, 4, 8]),
    cut=st.tuples(st.integers(-5, 7), st.integers(-5, 7)),
    scale=st.sampled_from([1.0, 0.5, 0.37, 1.9]),
)
def test_crops_match_interpolating_the_whole_map(seed, cells, stride, cut, scale):
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(3, *cells, generator=generator)
    soft[0] *= torch.rand(cells, generator=generator) > 0.7
    soft[1, :, cells[1] // 2 :] = 0
    image_size = (max(1, cells[0] * stride - cut[0]), max(1, cells[1] * stride - cut[1]))
    output_size = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
    found = upsample_soft_masks(soft, stride=stride, image_size=image_size, output_size=output_size)

    # grid_sample over the whole map, its coordinates normalized to [-1, 1] from edge to edge of the map.
    axes = [
        (torch.arange(out, dtype=torch.float64) + 0.5) * image / out / (stride * n) * 2 - 1
        for out, image, n in zip(output_size, image_size, cells, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None].expand(3, -1, -1, -1)
    value = F.grid_sample(soft[:, None].double(), grid, padding_mode="border", align_corners=False)[:, 0]
    clear = (value - 0.5).abs() > 1e-4
    assert torch.equal(found[clear], (value >= 0.5)[clear])


def test_neighboring_values_give_no_false_ring():
    # Label 5 beside background: interpolated labels would pass 2 and 3 and give rings to the objects of these
    # values.
    label_map = torch.zeros(8, 8)
    label_map[2:6, 2:6] = 5
    soft = (1 - (label_map - torch.tensor([5.0, 2.0])[:, None, None]).abs()).clamp(0, 1)
    masks = upsample_soft_masks(soft, stride=4, image_size=(32, 32))
    assert masks[0, 8:24, 8:24].sum() == masks[0].sum() > 230
    assert not masks[1].any()


def test_instances_without_membership_or_in_the_padding():
    soft = torch.zeros(3, 8, 8)
    soft[1, 6:8, 6:8] = 1  # the image ends before
    soft[2, 1:3, 1:3] = 1
    options = {"stride": 4, "image_size": (20, 20)}
    assert upsample_soft_masks(soft, **options).flatten(1).any(1).tolist() == [False, False, True]


def test_no_instances():
    assert upsample_soft_masks(torch.zeros(0, 8, 8), stride=4, image_size=(30, 31)).shape == (0, 30, 31)


def test_half_precision():
    soft = torch.zeros(1, 4, 4, dtype=torch.bfloat16)
    soft[0, 1:3, 1:3] = 1
    expected = upsample_soft_masks(soft.float(), stride=4, image_size=(16, 16))
    assert torch.equal(upsample_soft_masks(soft, stride=4, image_size=(16, 16)), expected)


def test_large_outputs_are_sampled_in_chunks_of_rows(monkeypatch):
    soft = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    options = {"stride": 4, "image_size": (35, 42), "output_size": (70, 90)}
    whole = upsample_soft_masks(soft, **options)
    monkeypatch.setitem(upsample_soft_masks.__globals__, "_CHUNK", 200)
    assert torch.equal(upsample_soft_masks(soft, **options), whole)
