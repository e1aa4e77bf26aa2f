"""How candidates are scored."""

import numpy as np
import pytest
import torch

from dvis_d2.modeling.masks import mask_iou

from .drawn_maps import draw, group


def disc(row, column, radius, size=(48, 64)):
    y, x = np.mgrid[: size[0], : size[1]]
    return torch.from_numpy((y - row) ** 2 + (x - column) ** 2 <= radius**2)


def test_score_by_hand():
    # 4 x 5 cells of value 3 on zeros: no spread, contrast 1, of one hill, 2 x 3 of 20 cells inside.
    found = group(draw((3, 4, 8, 4, 9)), candidates=["regions"])
    assert found.scores.tolist() == pytest.approx([(1 + 6 / 20) / 2])
    # At half a label's distance from a neighbor in 6 of 22 cells of the ring the contrast is lower.
    found = group(draw((3, 4, 8, 4, 9), (3.5, 3, 9, 9, 10)), bandwidths=[0.4], candidates=["levels"])
    scores = {int(mask.sum()): score for mask, score in zip(found.masks, found.scores.tolist(), strict=True)}
    assert scores[20] == pytest.approx((1 - 0.5 * 6 / 22) * (1 + 6 / 20) / 2)


def test_score_of_a_level_in_two_parts_by_hand():
    found = group(draw((3, 2, 8, 1, 6), (3, 2, 8, 9, 14)), candidates=["levels"])  # two equal objects of one value
    # Of 6 x 5 cells the mean squared radius is (6^2 + 5^2) / 12; the centers lie 8 apart.
    radius = (36 + 25) / 12
    ratio = 2 * radius / (radius + 4**2)
    whole = ratio**4 / (ratio**4 + (1 - ratio) ** 4)
    assert found.scores.tolist() == pytest.approx([(1 + 4 * 3 / 30) / 2 * whole])


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
def test_a_disc_cut_by_a_thin_bar_is_offered_whole_and_in_halves(occluder):
    whole = disc(24, 30, 14)
    bar = torch.zeros_like(whole)
    bar[:, 28:31] = True
    found = group(torch.where(bar, occluder, 3.0 * whole))
    left, right = whole.clone(), whole.clone()
    left[:, 28:], right[:, :31] = False, False
    assert any(torch.equal(mask, whole & ~bar) for mask in found.masks)
    best = mask_iou(torch.stack([left, right]), found.masks).amax(dim=1)
    assert (best > 0.85).all()  # a region may end a cell before a step between labels


def test_scores_do_not_depend_on_place_or_direction():
    label_map = torch.zeros(40, 60)
    label_map[2:9, 3:12], label_map[2:9, 14:20], label_map[12:20, 30:40] = 3.0, 3.0, 3.0
    expected = group(label_map).scores
    for other in (label_map.T, label_map.flip(1), label_map.roll((15, 12), (0, 1))):
        assert group(other).scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
