import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.meta_arch import downsample_instance_ids, instance_masks
from experiments.oracle import area_coverage, certain_score, color_instances, oracle_label_map, pad_to_stride


def stripes(*columns):
    """int64 (4, n): one id a column."""
    return torch.tensor(columns)[None].expand(4, -1).contiguous()


def test_neighbors_differ_and_far_instances_share():
    ids = stripes(1, 1, 2, 2, 0, 0, 0, 0, 3, 3)
    colors = color_instances(ids, reach=3).tolist()
    assert colors[0] != colors[1] and set(colors) == {0, 1}  # 3 is 5 columns from 2


def test_reach_is_the_distance_that_still_conflicts():
    ids = stripes(1, 0, 0, 2)
    assert color_instances(ids, reach=2).tolist() == [0, 0]
    assert sorted(color_instances(ids, reach=3).tolist()) == [0, 1]
    assert sorted(color_instances(stripes(1, *[0] * 20, 2), reach=10**6).tolist()) == [0, 1]


def test_an_instance_in_two_parts_has_a_label_of_its_own():
    ids = stripes(1, 1, *[0] * 9, 2, 2, *[0] * 9, 1, 1, *[0] * 9, 3)
    colors = color_instances(ids, reach=3).tolist()
    assert colors[0] not in colors[1:] and colors[1] == colors[2]


def test_missing_ids_and_ignored_cells_have_no_color():
    ids = stripes(-1, -1, 2, 2)
    assert color_instances(ids, reach=3).tolist() == [-1, 0]
    assert oracle_label_map(ids)[0].tolist() == [0, 0, 2, 2]
    assert color_instances(stripes(0, 0), reach=3).shape == (0,)
    assert oracle_label_map(stripes(0, -1)).abs().sum() == 0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 9), reach=st.integers(1, 4))
def test_close_cells_of_different_instances_are_a_margin_apart(seed, count, reach):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(-12, count + 1, (9, 11)))
    ids = ids.clamp(min=-1)
    labels = oracle_label_map(ids, reach=reach)
    cells = (ids > 0).nonzero()
    for y, x in cells.tolist():
        window = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        other = (ids[window] > 0) & (ids[window] != ids[y, x])
        assert ((labels[window] - labels[y, x]).abs()[other] >= 1).all()
    assert (labels[ids > 0] >= 2).all() and (labels[ids <= 0] == 0).all()
    for k in range(1, count + 1):
        assert labels[ids == k].unique().numel() <= 1


def test_coverage_is_the_share_of_a_cell():
    ids = torch.tensor([[1, 1, 0, 2], [1, 0, 0, 2]])
    assert area_coverage(ids, 2, 2).tolist() == [[[0.75, 0.0]], [[0.0, 0.5]]]


@pytest.mark.parametrize("size", [(4, 8), (5, 7), (1, 1)])
def test_padding_is_ignored_and_fills_the_last_cells(size):
    padded = pad_to_stride(torch.ones(size, dtype=torch.int64), 4)
    assert padded.shape[0] % 4 == 0 and padded.shape[1] % 4 == 0
    assert (padded == 1).sum() == size[0] * size[1] and (padded == -1).sum() == padded.numel() - size[0] * size[1]


def test_the_certain_score_is_that_of_a_mask_that_grouping_finds_for_certain():
    ids = torch.zeros(16, 16, dtype=torch.int64)
    ids[2:5, 2:9] = 1
    ids[8:, 8:] = 2  # reaches the border of the map, beyond which there is no neighbor
    masks = instance_masks(ids, 3)  # 3 has no cell
    expected = [(1 + 5 / 21) / 2, (1 + 49 / 64) / 2, 0]
    assert certain_score(masks).tolist() == pytest.approx(expected)
    found = group_label_map(oracle_label_map(ids, reach=16)[None], candidates=["levels"])[0]
    scores = {tuple(m.nonzero()[0].tolist()): s for m, s in zip(found.masks, found.scores.tolist(), strict=True)}
    assert scores[(2, 2)] == pytest.approx(expected[0]) and scores[(8, 8)] == pytest.approx(expected[1])


def test_grouping_the_oracle_map_finds_every_instance_of_a_crowd():
    """The ceiling itself: 16 touching squares, few labels, no mask is lost."""
    ids = torch.arange(1, 17).view(4, 4).repeat_interleave(12, 0).repeat_interleave(12, 1)
    cells = downsample_instance_ids(ids[None], 2)[0]
    label_map = oracle_label_map(cells)
    assert label_map.unique().numel() == 4  # the squares of a chessboard touch at corners too
    found = group_label_map(label_map[None])[0].masks
    for mask in instance_masks(cells, 16):
        assert (found == mask).flatten(1).all(1).any()
