import math

import pytest
import torch
from detectron2.structures import BitMasks
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.candidates import SOURCES
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.masks import mask_iou
from dvis_d2.modeling.proposal_generator import soft_membership

from .drawn_maps import cells, draw, group, mask_set, noisy_map

LEFT, RIGHT = (2, 8, 1, 6), (3, 9, 9, 15)


def test_far_objects_that_share_a_value_come_apart_as_regions_only():
    label_map = draw((3, *LEFT), (3, *RIGHT))
    assert mask_set(group(label_map, candidates=["levels"])) == {cells(LEFT, RIGHT)}
    assert mask_set(group(label_map, candidates=["regions"])) == {cells(LEFT), cells(RIGHT)}
    assert mask_set(group(label_map)) == {cells(LEFT, RIGHT), cells(LEFT), cells(RIGHT)}


def test_an_object_cut_in_two_by_a_bar_stays_whole_as_a_level():
    upper, bar, lower = (1, 4, 2, 12), (4, 6, 0, 16), (6, 10, 2, 12)
    label_map = draw((2, *upper), (5, *bar), (2, *lower))
    assert mask_set(group(label_map, candidates=["levels"])) == {cells(upper, lower), cells(bar)}


def test_touching_objects_a_margin_apart_are_two():
    first, second = (2, 8, 2, 7), (2, 8, 7, 12)
    label_map = draw((2, *first), (3, *second))
    for source in SOURCES:
        found = group(label_map, candidates=[source])
        assert mask_set(found) >= {cells(first), cells(second)}, source
        assert sorted(found.values[:2].tolist()) == [2, 3]


def test_a_region_follows_a_drifting_label_up_to_a_step():
    region = (2, 8, 1, 15)
    label_map = draw((1, *region))
    label_map[2:8, 1:15] = torch.linspace(2, 2.65, 14)  # steps of 0.05
    assert mask_set(group(label_map, candidates=["regions"])) == {cells(region)}
    label_map[2:8, 8:15] += 0.3
    halves = {cells((2, 8, 1, 8)), cells((2, 8, 8, 15))}
    assert mask_set(group(label_map, candidates=["regions"])) >= halves
    with pytest.raises(ValueError, match="bandwidths.* at least one"):
        group(label_map, bandwidths=[])


def test_a_region_ends_half_way_down_its_soft_border():
    label_map = draw((1.2, 1, 11, 1, 15), (2.0, 2, 10, 2, 14))
    found = group(label_map, candidates=["regions"], step_threshold=1.0)
    assert mask_set(found) == {cells((2, 10, 2, 14))}


def test_small_parts_are_dropped_and_those_parts_below_the_ratio_are_not_offered():
    body, large, small = (1, 9, 1, 9), (1, 5, 11, 15), (8, 10, 12, 14)  # 64, 16 and 4 cells
    label_map = draw((3, *body), (3, *large), (3, *small))
    options = {"bandwidths": [0.9], "min_area": 1, "candidates": ["levels"]}
    assert mask_set(group(label_map, min_part_ratio=0.25, **options)) == {cells(body, large)}
    assert mask_set(group(label_map, min_part_ratio=0.0, **options)) == {cells(body, large, small)}


def test_specks_count_only_where_they_stand_alone():
    body, beside, alone = (1, 9, 1, 9), (3, 5, 9, 10), (8, 10, 13, 14)  # specks of two cells
    label_map = draw((4, *body), (2.5, *beside), (3, *alone))
    options = {"candidates": ["levels"], "bandwidths": [0.3]}
    assert mask_set(group(label_map, min_area=3, **options)) == {cells(body), cells(alone)}
    assert mask_set(group(label_map, min_area=2, **options)) == {cells(body), cells(beside), cells(alone)}
    regions = mask_set(group(label_map, candidates=["regions"], min_area=3))
    assert cells(body) in regions and cells(alone) in regions and cells(beside) not in regions


def test_diagonal_neighbors_do_not_connect():
    first, second = (1, 5, 1, 5), (5, 9, 5, 9)
    label_map = draw((3, *first), (3, *second))
    assert mask_set(group(label_map, candidates=["regions"])) == {cells(first), cells(second)}


def test_foreground_threshold_is_exclusive_and_keeps_background_out():
    label_map = draw((1.0, *LEFT), (1.5, *RIGHT))
    assert mask_set(group(label_map)) == {cells(RIGHT)}
    assert mask_set(group(label_map, foreground_threshold=0.5, bandwidths=[0.4], candidates=["regions"])) == {
        cells(LEFT),
        cells(RIGHT),
    }


def test_padding_is_no_proposal():
    label_map = draw((3, *LEFT), (4, *RIGHT))
    found = group(label_map, valid=[(7, 12)])
    assert mask_set(found) == {cells((2, 7, 1, 6)), cells((3, 7, 9, 12))}
    assert found.masks.shape == (2, 12, 16)


def test_values_and_soft_membership():
    label_map = draw((1.5, *LEFT))
    label_map[2:8, 1] = 1.9
    label_map[2, 6] = 0.9  # beside the mask, below the threshold
    label_map[0, 15] = 0.9  # far from it
    found = group(label_map, bandwidths=[0.9], candidates=["levels"])
    value = (24 * 1.5 + 6 * 1.9) / 30
    assert found.values.tolist() == pytest.approx([value])
    assert found.soft[0, 4, 3].item() == pytest.approx(1 - (value - 1.5))
    assert found.soft[0, 4, 1].item() == pytest.approx(1 - (1.9 - value))
    assert found.soft[0, 2, 6].item() == pytest.approx(1 - (value - 0.9), abs=1e-6)
    assert found.soft[0, 0, 15] == 0
    assert found.soft.dtype == found.values.dtype == found.scores.dtype == torch.float32


def test_nms_drops_near_duplicates_and_max_proposals_the_worst():
    label_map = draw((2, 1, 11, 1, 11), (2.35, 1, 2, 1, 11))  # 0.4 keeps one row of ten apart, 0.9 does not
    options = {"bandwidths": [0.9, 0.3], "candidates": ["levels"]}
    assert sorted(group(label_map, nms_threshold=0.95, **options).masks.sum((1, 2)).tolist()) == [10, 90, 100]
    assert len(group(label_map, nms_threshold=0.8, **options)) == 2
    best = group(label_map, nms_threshold=0.95, max_proposals=1, **options)
    assert best.scores[0] == group(label_map, nms_threshold=0.95, **options).scores[0]
    assert len(best) == 1


def test_equal_masks_are_one_proposal_at_any_threshold():
    found = group(draw((3, *LEFT), (5, *RIGHT)), nms_threshold=1.0)
    assert sorted(map(int, found.masks.sum(dim=(1, 2)))) == [30, 36]


def test_a_level_ramp_gives_finite_proposals():
    ramp = torch.linspace(0, 12, 64).expand(48, 64)
    found = group(ramp)
    assert len(found) >= 1
    assert torch.isfinite(found.scores).all() and torch.isfinite(found.soft).all()


@pytest.mark.parametrize("value", [0.0, -3.0, 1.0, math.nan, math.inf, -math.inf])
def test_no_foreground(value):
    found = group(torch.full((5, 7), value))
    assert found.masks.shape == found.soft.shape == (0, 5, 7)
    assert found.values.shape == found.scores.shape == (0,)
    assert (found.levels == -1).all()
    assert len(found) == 0


def test_one_cell():
    found = group([[3.0]])
    assert found.masks.tolist() == [[[True]]]
    assert found.scores.tolist() == [1.0]


def test_a_mask_that_fills_the_map():
    found = group(torch.full((6, 6), 2.0))
    assert found.masks.all() and len(found) == 1
    assert found.scores.tolist() == [1.0]


def test_no_images():
    assert group_label_map(torch.zeros(0, 8, 8)) == []


def test_cells_that_are_not_finite_are_background():
    label_map = draw((3, *LEFT), (4, *RIGHT))
    label_map[2, 1], label_map[3, 2], label_map[4, 12] = math.nan, math.inf, -math.inf
    found = group(label_map)
    expected = {
        tuple(c for c in cells(LEFT) if c not in {(2, 1), (3, 2)}),
        tuple(c for c in cells(RIGHT) if c != (4, 12)),
    }
    assert mask_set(found) == expected
    assert torch.isfinite(found.soft).all()
    assert (found.soft[:, ~torch.isfinite(label_map)] == 0).all()


def test_a_batch_gives_what_single_images_give():
    generator = torch.Generator().manual_seed(0)
    maps = torch.stack([draw((2 + i, *LEFT), (3, *RIGHT)) for i in range(3)])
    maps += (maps > 0) * 0.2 * torch.randn(maps.shape, generator=generator)
    maps[1] = 0
    valid = [(12, 16), (12, 16), (6, 11)]
    together = group_label_map(maps, valid=valid)
    for i in range(3):
        alone = group_label_map(maps[i : i + 1], valid=valid[i : i + 1])[0]
        assert torch.equal(alone.masks, together[i].masks)
        assert torch.allclose(alone.scores, together[i].scores)


def test_negative_values_and_relu_change_nothing_but_the_background():
    label_map = draw((3, *LEFT), (4, *RIGHT)) - 0.5
    relu = label_map.relu()
    assert mask_set(group(label_map)) == mask_set(group(relu))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 24), st.integers(1, 24), st.sampled_from([0.05, 0.4, 3.0]))
def test_any_map_gives_consistent_proposals(seed, height, width, noise):
    label_map = torch.from_numpy(noisy_map(seed, height, width, noise, side=6))
    found = group(label_map, candidates=SOURCES, max_proposals=12)
    assert len(found) <= 12
    assert (found.scores.diff() <= 0).all() and (found.scores >= 0).all() and (found.scores <= 1).all()
    assert not (found.masks & (label_map <= 1)).any()
    assert (mask_iou(found.masks, found.masks).triu(1) <= 0.8).all()
    means = [label_map[mask].mean().item() for mask in found.masks]
    assert found.values.tolist() == pytest.approx(means, abs=1e-4)
    dense = soft_membership(label_map, found.masks, found.values)
    assert torch.allclose(found.soft, dense, atol=1e-5)


def test_soft_membership_of_no_masks():
    assert soft_membership(torch.zeros(4, 5), torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0)).shape == (0, 4, 5)


@pytest.mark.parametrize("candidates", [[], ["level"], ["levels", "merged"]])
def test_wrong_candidates(candidates):
    with pytest.raises(ValueError, match="candidates"):
        group_label_map(torch.zeros(1, 4, 4), candidates=candidates)


def test_wrong_shape():
    with pytest.raises(ValueError, match="label_map"):
        group_label_map(torch.zeros(4, 4))


def test_boxes_of_proposals():
    found = group(draw((3, *LEFT)), candidates=["levels"])
    assert BitMasks(found.masks).get_bounding_boxes().tensor.tolist() == [[1, 2, 6, 8]]


def test_levels_are_those_of_the_least_bandwidth_by_ascending_label():
    nan = float("nan")
    label_map = torch.tensor([[0.0, 2.0, 2.1], [nan, 4.0, 0.9], [2.05, float("inf"), 4.0]])
    maps = torch.stack([torch.zeros(3, 3), label_map])
    empty, found = group_label_map(maps, bandwidths=[9.0, 0.6], foreground_threshold=1.0)
    assert found.levels.tolist() == [[-1, 0, 0], [-1, 1, -1], [0, -1, 1]]
    assert (empty.levels == -1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_as_the_cpu():
    label_map = draw((2, *LEFT), (4, *RIGHT))[None]
    expected, found = group_label_map(label_map)[0], group_label_map(label_map.cuda())[0]
    assert found.masks.is_cuda and found.soft.is_cuda
    assert torch.equal(found.masks.cpu(), expected.masks)
