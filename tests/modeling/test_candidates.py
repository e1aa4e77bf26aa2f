"""How candidates are scored."""

import numpy as np
import pytest
import torch

from .drawn_maps import draw, group

LEFT = (2, 8, 1, 6)


def test_score_by_hand():
    # 2 x 3 cells of value 3 on zeros: no spread, contrast 1, 10 of 24 neighbor pairs leave, all candidates
    # agree.
    found = group(draw((3, 4, 6, 4, 7)))
    assert found.scores.tolist() == pytest.approx([1 - 10 / 24])
    # At half a label's distance from a neighbor on one side (2 of 10 pairs) the contrast is 0.9.
    found = group(draw((3, 4, 6, 4, 7), (3.5, 4, 6, 7, 9)), bandwidths=[0.4], candidates=["levels"])
    scores = {int(mask.sum()): score for mask, score in zip(found.masks, found.scores.tolist(), strict=True)}
    assert scores[6] == pytest.approx(0.9 * (1 - 10 / 24))
    assert scores[4] == pytest.approx((1 - 2 / 8 * 0.5) * (1 - 8 / 16))


def wholeness(ratio):
    return ratio**4 / (ratio**4 + (1 - ratio) ** 4)


def test_score_of_a_mask_in_two_parts_and_of_its_parts_by_hand():
    label_map = draw((3, *LEFT), (3, *LEFT[:2], 9, 14))  # two equal objects of one value
    found = group(label_map)
    # Of 6 x 5 cells the mean squared radius is (6^2 + 5^2) / 12; the centers lie 8 apart.
    radius = (36 + 25) / 12
    whole = wholeness(2 * radius / (radius + 4**2))
    interior = 1 - 22 / 120
    # Of five candidates two hold the union, three its parts.
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
