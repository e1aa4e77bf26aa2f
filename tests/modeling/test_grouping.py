import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.grouping import READINGS, group_label_map, masks_to_boxes, soft_membership
from dvis_d2.modeling.masks import mask_iou


def group(label_map, **options):
    return group_label_map(torch.as_tensor(label_map)[None].float(), **options)[0]


def mask_set(grouping):
    return {tuple(map(tuple, mask.nonzero().tolist())) for mask in grouping.masks}


def cells(*regions, size=(12, 16)):
    """The same form for the union of (y0, y1, x0, x1) regions."""
    mask = torch.zeros(size, dtype=torch.bool)
    for y0, y1, x0, x1 in regions:
        mask[y0:y1, x0:x1] = True
    return tuple(map(tuple, mask.nonzero().tolist()))


def draw(*regions, size=(12, 16)):
    """A label map of (value, y0, y1, x0, x1) regions on background."""
    label_map = torch.zeros(size)
    for value, y0, y1, x0, x1 in regions:
        label_map[y0:y1, x0:x1] = value
    return label_map


LEFT, RIGHT = (2, 8, 1, 6), (3, 9, 9, 15)


def test_far_objects_that_share_a_value_come_apart_as_parts_only():
    label_map = draw((3, *LEFT), (3, *RIGHT))
    assert mask_set(group(label_map, readings=["levels"])) == {cells(LEFT, RIGHT)}
    assert mask_set(group(label_map, readings=["parts"])) == {cells(LEFT), cells(RIGHT)}
    assert mask_set(group(label_map, readings=["linked"])) == {cells(LEFT), cells(RIGHT)}
    both = group(label_map, readings=["levels", "parts", "linked"])
    assert mask_set(both) == {cells(LEFT, RIGHT), cells(LEFT), cells(RIGHT)}


def test_an_object_cut_in_two_by_a_bar_stays_whole_as_a_level():
    upper, bar, lower = (1, 4, 2, 12), (4, 6, 0, 16), (6, 10, 2, 12)
    label_map = draw((2, *upper), (5, *bar), (2, *lower))
    assert mask_set(group(label_map, readings=["levels"])) == {cells(upper, lower), cells(bar)}


def test_touching_objects_a_margin_apart_are_two():
    first, second = (2, 8, 2, 7), (2, 8, 7, 12)
    label_map = draw((2, *first), (3, *second))
    for reading in ("levels", "parts", "linked"):
        found = group(label_map, readings=[reading])
        assert mask_set(found) == {cells(first), cells(second)}, reading
    assert sorted(found.values.tolist()) == [2, 3]


def test_merged_reading_joins_neighbouring_levels_closer_than_the_bandwidth():
    first, second, third = (2, 8, 2, 6), (2, 8, 6, 10), (2, 8, 10, 14)
    label_map = draw((2, *first), (2.8, *second), (3.6, *third))
    found = group(label_map, bandwidths=[0.9], readings=["merged"])
    assert mask_set(found) == {cells(first, second), cells(second, third)}
    assert len(group(label_map, bandwidths=[0.75], readings=["merged"])) == 0
    assert len(group(label_map, bandwidths=[0.9], readings=["levels", "merged"])) == 5


def test_linked_reading_follows_a_drifting_label():
    region = (2, 8, 1, 15)
    label_map = draw((1, *region))
    label_map[2:8, 1:15] = torch.linspace(2, 4.6, 14)  # steps of 0.2
    assert mask_set(group(label_map, readings=["linked"], link_thresholds=[0.25])) == {cells(region)}
    columns = {cells((2, 8, x, x + 1)) for x in range(1, 15)}
    assert mask_set(group(label_map, readings=["linked"], link_thresholds=[0.15])) == columns
    both = group(label_map, readings=["linked"], link_thresholds=[0.15, 0.25], nms_threshold=1.0)
    assert mask_set(both) == columns | {cells(region)}
    with pytest.raises(ValueError, match="link_thresholds must name at least one"):
        group(label_map, link_thresholds=[])


def test_crumbs_are_dropped_and_small_parts_below_the_ratio_are_not_offered():
    body, large, small = (1, 9, 1, 9), (1, 5, 11, 15), (8, 10, 12, 14)  # 64, 16 and 4 cells
    label_map = draw((3, *body), (3, *large), (3, *small))
    options = {"bandwidths": [0.9], "min_area": 1}
    found = group(label_map, readings=["levels", "parts"], crumb_ratio=0.25, **options)
    assert mask_set(found) == {cells(body, large), cells(body), cells(large)}
    found = group(label_map, readings=["levels"], crumb_ratio=0.0, **options)
    assert mask_set(found) == {cells(body, large, small)}


def test_specks_count_only_where_they_stand_alone():
    body, beside, alone = (1, 9, 1, 9), (3, 5, 9, 10), (8, 10, 13, 14)  # specks of two cells
    label_map = draw((4, *body), (2.5, *beside), (3, *alone))
    for readings in (["linked"], ["parts"], ["levels"]):
        options = {"readings": readings, "bandwidths": [0.3]}
        assert mask_set(group(label_map, min_area=3, **options)) == {cells(body), cells(alone)}
        assert mask_set(group(label_map, min_area=2, **options)) == {cells(body), cells(beside), cells(alone)}


def test_diagonal_neighbours_do_not_connect():
    first, second = (1, 5, 1, 5), (5, 9, 5, 9)
    label_map = draw((3, *first), (3, *second))
    assert mask_set(group(label_map, readings=["parts", "linked"])) == {cells(first), cells(second)}


def test_foreground_threshold_is_exclusive_and_keeps_background_out():
    label_map = draw((1.0, *LEFT), (1.5, *RIGHT))
    assert mask_set(group(label_map)) == {cells(RIGHT)}
    assert mask_set(group(label_map, foreground_threshold=0.5, bandwidths=[0.4], readings=["parts"])) == {
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
    found = group(label_map, bandwidths=[0.9], readings=["levels"])
    value = (24 * 1.5 + 6 * 1.9) / 30
    assert found.values.tolist() == pytest.approx([value])
    assert found.soft[0, 4, 3].item() == pytest.approx(1 - (value - 1.5))
    assert found.soft[0, 4, 1].item() == pytest.approx(1 - (1.9 - value))
    assert found.soft[0, 2, 6].item() == pytest.approx(1 - (value - 0.9), abs=1e-6)
    assert found.soft[0, 0, 15] == 0
    assert found.soft.dtype == found.values.dtype == found.scores.dtype == torch.float32


def test_score_by_hand():
    # 2 x 3 cells of value 3 on zeros: no spread, contrast 1, 10 of 24 neighbour pairs leave, all readings
    # agree.
    found = group(draw((3, 4, 6, 4, 7)))
    assert found.scores.tolist() == pytest.approx([1 - 10 / 24])
    # At half a label's distance from a neighbour on one side (2 of 10 pairs) the contrast is 0.9.
    found = group(draw((3, 4, 6, 4, 7), (3.5, 4, 6, 7, 9)), bandwidths=[0.4], readings=["levels"])
    scores = {int(mask.sum()): score for mask, score in zip(found.masks, found.scores.tolist(), strict=True)}
    assert scores[6] == pytest.approx(0.9 * (1 - 10 / 24))
    assert scores[4] == pytest.approx((1 - 2 / 8 * 0.5) * (1 - 8 / 16))


def wholeness(ratio):
    return ratio**4 / (ratio**4 + (1 - ratio) ** 4)


def test_score_of_a_mask_in_two_parts_and_of_its_parts_by_hand():
    label_map = draw((3, *LEFT), (3, *LEFT[:2], 9, 14))  # two equal objects of one value
    found = group(label_map)
    # Of 6 x 5 cells the mean squared radius is (6^2 + 5^2) / 12; the centres lie 8 apart.
    radius = (36 + 25) / 12
    whole = wholeness(2 * radius / (radius + 4**2))
    interior = 1 - 22 / 120
    # Of five readings two hold the union, three its parts.
    part = interior * (1 + (3 + 2 * (1 - whole)) / 5) / 2 * (1 - whole / 2)
    union = interior * (1 + (2 + 3 * whole) / 5) / 2 * whole
    assert found.scores.tolist() == pytest.approx([part, part, union])


def disc(row, column, radius, size=(48, 64)):
    y, x = np.mgrid[: size[0], : size[1]]
    return torch.from_numpy((y - row) ** 2 + (x - column) ** 2 <= radius**2)


def test_two_far_discs_of_one_label_rank_before_their_union():
    first, second = disc(20, 14, 9), disc(26, 50, 9)
    found = group(3.0 * (first | second))
    assert len(found) == 3
    assert {tuple(m.nonzero()[0].tolist()) for m in found.masks[:2]} == {
        tuple(m.nonzero()[0].tolist()) for m in (first, second)
    }
    assert torch.equal(found.masks[2], first | second)
    assert found.scores[2] < 0.05 * found.scores[1]


@pytest.mark.parametrize("occluder", [0.0, 5.0])  # background, or an object
def test_a_disc_cut_by_a_thin_bar_ranks_before_its_halves(occluder):
    whole = disc(24, 30, 14)
    bar = torch.zeros_like(whole)
    bar[:, 28:31] = True
    label_map = torch.where(bar, occluder, 3.0 * whole)
    found = group(label_map)
    of_disc = [k for k, value in enumerate(found.values.tolist()) if value == 3]
    assert torch.equal(found.masks[of_disc[0]], whole & ~bar)
    halves = [found.masks[k] for k in of_disc[1:]]
    assert len(halves) == 2 and torch.equal(halves[0] | halves[1], whole & ~bar)
    assert found.scores[of_disc[1]] < 0.6 * found.scores[of_disc[0]]


def test_a_cut_disc_and_a_far_one_of_the_same_label_are_offered_apart_and_together():
    whole, far = disc(24, 14, 10), disc(24, 52, 10)
    whole[:, 13:16] = False
    found = group(3.0 * (whole | far))
    # One level holds them all: a label map does not say which parts belong together, so no union of two is offered.
    assert sorted(int(mask.sum()) for mask in found.masks) == sorted(
        [int(whole[:, :14].sum()), int(whole[:, 14:].sum()), int(far.sum()), int((whole | far).sum())]
    )
    assert torch.equal(found.masks[0], far)
    assert torch.equal(found.masks[3], whole | far)


def test_scores_do_not_depend_on_place_or_direction():
    label_map = torch.zeros(40, 60)
    label_map[2:9, 3:12], label_map[2:9, 14:20], label_map[12:20, 30:40] = 3.0, 3.0, 3.0
    expected = group(label_map).scores
    for other in (label_map.T, label_map.flip(1), label_map.roll((15, 12), (0, 1))):
        assert group(other).scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_nms_drops_near_duplicates_and_max_proposals_the_worst():
    label_map = draw((2, 1, 11, 1, 11), (2.35, 1, 2, 1, 11))  # 0.4 keeps one row of ten apart, 0.9 does not
    options = {"bandwidths": [0.9, 0.3], "readings": ["levels"]}
    assert sorted(group(label_map, nms_threshold=0.95, **options).masks.sum((1, 2)).tolist()) == [10, 90, 100]
    assert len(group(label_map, nms_threshold=0.8, **options)) == 2
    best = group(label_map, nms_threshold=0.95, max_proposals=1, **options)
    assert best.scores[0] == group(label_map, nms_threshold=0.95, **options).scores[0]
    assert len(best) == 1


def test_a_level_ramp_gives_finite_proposals():
    ramp = torch.linspace(0, 12, 64).expand(48, 64)
    found = group(ramp)
    assert len(found) >= 1
    assert torch.isfinite(found.scores).all() and torch.isfinite(found.soft).all()
    assert found.masks.any(0)[:, 8:].all()  # all foreground is in some proposal


@pytest.mark.parametrize("value", [0.0, -3.0, 1.0, math.nan, math.inf, -math.inf])
def test_no_foreground(value):
    found = group(torch.full((5, 7), value))
    assert found.masks.shape == found.soft.shape == (0, 5, 7)
    assert found.values.shape == found.scores.shape == found.kinds.shape == (0,)
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
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (height // 6 + 1, width // 6 + 1)).astype(np.float32)
    label_map = np.kron(coarse, np.ones((6, 6)))[:height, :width] + rng.normal(0, noise, (height, width))
    label_map = torch.from_numpy(label_map).float()
    found = group(label_map, readings=READINGS, max_proposals=12)
    assert len(found) <= 12
    assert (found.scores.diff() <= 0).all() and (found.scores >= 0).all() and (found.scores <= 1).all()
    assert not (found.masks & (label_map <= 1)).any()
    assert (mask_iou(found.masks, found.masks).triu(1) <= 0.8).all()
    means = [label_map[mask].mean().item() for mask in found.masks]
    assert found.values.tolist() == pytest.approx(means, abs=1e-4)
    dense = soft_membership(label_map, found.masks, found.values)
    assert torch.allclose(found.soft, dense, atol=1e-5)
    parts = group(label_map, readings=["parts", "linked"])
    for mask in parts.masks:
        assert cv2.connectedComponents(mask.numpy().astype(np.uint8), connectivity=4)[0] == 2


def test_soft_membership_of_no_masks():
    assert soft_membership(torch.zeros(4, 5), torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0)).shape == (0, 4, 5)


@pytest.mark.parametrize("readings", [[], ["level"], ["levels", "all"]])
def test_wrong_readings(readings):
    with pytest.raises(ValueError, match="readings"):
        group_label_map(torch.zeros(1, 4, 4), readings=readings)


def test_wrong_shape():
    with pytest.raises(ValueError, match="label_map"):
        group_label_map(torch.zeros(4, 4))


def test_boxes_of_proposals():
    found = group(draw((3, *LEFT)), readings=["levels"])
    assert masks_to_boxes(found.masks).tolist() == [[1, 2, 6, 8]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_as_the_cpu():
    label_map = draw((2, *LEFT), (4, *RIGHT))[None]
    expected, found = group_label_map(label_map)[0], group_label_map(label_map.cuda())[0]
    assert found.masks.is_cuda and found.soft.is_cuda
    assert torch.equal(found.masks.cpu(), expected.masks)
