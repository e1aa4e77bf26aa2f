import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.label_map_statistics import Separation, count_modes, separation


def test_separation_by_hand():
    ids = torch.tensor([[1, 1, 2, 0, -1, 0, 3]])
    labels = torch.tensor([[2.0, 2.6, 3.0, 9.0, 9.0, 9.0, 3.2]])
    # near (<= 3 cells): 1-2 twice (differences 1.0, 0.4); far: 3 with cells 0, 1 and 2 (1.2, 0.6, 0.2)
    assert separation(labels, ids) == Separation(near=2, near_apart=1, far=3, far_apart=2)
    assert separation(labels, ids).shares() == {"near": 0.5, "far": pytest.approx(2 / 3)}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9), reach=st.integers(1, 4))
def test_separation_counts_every_pair_once(seed, height, width, reach):
    rng = np.random.default_rng(seed)
    ids, labels = rng.integers(-1, 4, (height, width)), rng.normal(2, 0.6, (height, width))
    cells = np.argwhere(ids > 0)
    expected = np.zeros(4, dtype=int)
    for i, p in enumerate(cells):
        for q in cells[:i]:
            if ids[tuple(p)] != ids[tuple(q)]:
                far = ((p - q) ** 2).sum() > reach**2
                expected[2 * far] += 1
                expected[2 * far + 1] += abs(labels[tuple(p)] - labels[tuple(q)]) > 0.5
    assert separation(torch.from_numpy(labels), torch.from_numpy(ids), reach=reach) == Separation(*expected.tolist())


def test_separation_adds_up_and_is_nan_without_pairs():
    total = Separation(2, 1, 4, 4) + Separation(6, 5, 0, 0)
    assert total.shares() == {"near": 0.75, "far": 1.0}
    one = separation(torch.ones(3, 3), torch.ones(3, 3, dtype=torch.int64))
    assert one == Separation() and all(math.isnan(share) for share in one.shares().values())
    with pytest.raises(ValueError, match="differ"):
        separation(torch.ones(3, 3), torch.ones(3, 4, dtype=torch.int64))


def test_modes_are_counted_by_bandwidth_and_size():
    label_map = torch.zeros(10, 10)
    label_map[:3], label_map[3:6], label_map[6:8] = 2.0, 2.6, 5.0
    label_map[9, :3] = 8.0  # 3 cells
    options = {"foreground_threshold": 1.0, "min_area": 4}
    # 0.6 apart: one mode with sigma 0.3 (2 sigma), two with sigma 0.133
    assert count_modes(label_map, bandwidths=[0.9, 0.4], **options) == [2, 3]
    assert count_modes(label_map, bandwidths=[0.4], **{**options, "min_area": 3}) == [4]
    assert count_modes(torch.zeros(4, 4), bandwidths=[0.9, 0.4], **options) == [0, 0]
    label_map[0, 0] = math.nan
    assert count_modes(label_map, bandwidths=[0.4], **options) == [3]
