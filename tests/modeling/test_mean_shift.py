import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MeanShift

from dvis_d2.modeling.mean_shift import mean_shift_1d, mean_shift_1d_batched


def climb(values, bandwidth, weights=None, max_steps=4000):
    """Brute force: iterates every value; equal end points are one mode."""
    sigma = bandwidth / 3
    values = values.double()
    weights = torch.ones_like(values) if weights is None else weights.double()
    x = values.clone()
    for _ in range(max_steps):
        kernel = torch.exp(-0.5 * ((x[:, None] - values) / sigma) ** 2) * weights
        moved = kernel @ values / kernel.sum(1)
        done = (moved - x).abs().max() < 1e-9 * bandwidth
        x = moved
        if done:
            break
    ends, order = x.sort()
    group = torch.zeros(len(x), dtype=torch.int64)
    group[order[1:]] = torch.cumsum(ends.diff() > 2e-3 * bandwidth, 0)
    modes = torch.stack([x[group == k].mean() for k in range(int(group.max()) + 1)])
    return modes, group


def check_against_climb(values, bandwidth, weights=None):
    modes, assignment = mean_shift_1d(values, bandwidth, weights=weights)
    expected_modes, expected = climb(values, bandwidth, weights)
    assert len(modes) == len(expected_modes)
    assert (modes.double() - expected_modes).abs().max() < 1e-3 * bandwidth
    assert (assignment == expected).double().mean() >= 0.999


@pytest.mark.parametrize("bandwidth", [0.9, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_random_values_climb_to_the_same_modes(seed, bandwidth):
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(500, generator=generator) * 8
    centers = torch.rand(6, generator=generator) * 6
    mixture = centers[torch.randint(6, (500,), generator=generator)]
    mixture = mixture + 0.2 * torch.randn(500, generator=generator)
    check_against_climb(uniform, bandwidth)
    check_against_climb(mixture, bandwidth)


def test_random_weights_climb_to_the_same_modes():
    generator = torch.Generator().manual_seed(0)
    values, weights = torch.rand(2, 400, generator=generator)
    check_against_climb(values * 5, 0.9, weights**4)


@st.composite
def mixtures(draw):
    """Values around centers, whose distances keep clear of where two equal modes merge (2/3 bandwidth)."""
    gaps = draw(st.lists(st.sampled_from([0.3, 0.45, 0.9, 1.3, 5.0]), min_size=0, max_size=5))
    sizes = draw(st.lists(st.integers(5, 60), min_size=len(gaps) + 1, max_size=len(gaps) + 1))
    spread = draw(st.sampled_from([0.0, 0.02, 0.1]))
    seed = draw(st.integers(0, 2**16))
    centers = draw(st.sampled_from([0.0, -7.3, 1000.0])) + np.cumsum([0.0, *gaps])
    noise = np.random.default_rng(seed).normal(0, spread, sum(sizes)) if spread else np.zeros(sum(sizes))
    return torch.from_numpy(np.repeat(centers, sizes) + noise)


@settings(max_examples=40, deadline=None)
@given(mixtures())
def test_mixtures_climb_to_the_same_values(values):
    # Two modes about to merge may be told apart by one method only, so end points are compared, not counts.
    bandwidth = 0.9
    modes, assignment = mean_shift_1d(values, bandwidth)
    expected_modes, expected = climb(values, bandwidth)
    error = (modes[assignment] - expected_modes[expected]).abs()
    assert (error < 1e-3 * bandwidth).double().mean() >= 0.999


def test_two_equal_values_merge_below_two_sigma_only():
    # The density of two equal Gaussians has one mode iff they are at most 2 sigma apart.
    sigma = 0.3
    apart, _ = mean_shift_1d(torch.tensor([0.0, 2.05 * sigma]), 3 * sigma)
    merged, assignment = mean_shift_1d(torch.tensor([0.0, 1.95 * sigma]), 3 * sigma)
    assert len(apart) == 2
    assert merged.tolist() == pytest.approx([0.975 * sigma], abs=1e-4)
    assert assignment.tolist() == [0, 0]


@pytest.mark.parametrize("bin_seeding", [False, True])
def test_agrees_with_scikit_learn_on_well_separated_values(bin_seeding):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(k, 0.05, 40) for k in (2.0, 4.0, 6.0, 9.0)])
    values = rng.permutation(values)
    theirs = MeanShift(bandwidth=0.9, bin_seeding=bin_seeding).fit(values[:, None])
    modes, assignment = mean_shift_1d(torch.from_numpy(values), 0.9)
    centers = theirs.cluster_centers_[:, 0]
    assert modes.numpy() == pytest.approx(np.sort(centers), abs=0.02)
    assert np.array_equal(np.argsort(np.argsort(centers))[theirs.labels_], assignment.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    modes, assignment = mean_shift_1d(torch.tensor([2.0, 2.0, 5.0], dtype=dtype), 0.9)
    assert modes.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert modes.tolist() == pytest.approx([2.0, 5.0], abs=1e-4)
    assert assignment.tolist() == [0, 0, 1]


def test_values_that_are_not_finite_are_ignored():
    values = torch.tensor([math.nan, 1.0, math.inf, 1.0, -math.inf, 3.0])
    modes, assignment = mean_shift_1d(values, 0.9)
    assert modes.tolist() == pytest.approx([1.0, 3.0], abs=1e-4)
    assert assignment.tolist() == [-1, 0, -1, 0, -1, 1]


def test_weights_that_are_not_positive_are_ignored():
    values = torch.tensor([1.0, 2.9, 3.1, 5.0, 5.0])
    weights = torch.tensor([1.0, 1e-30, 3.0, 0.0, math.nan])
    modes, assignment = mean_shift_1d(values, 0.9, weights=weights)
    assert modes.tolist() == pytest.approx([1.0, 3.1], abs=1e-4)
    assert assignment.tolist() == [0, 1, 1, -1, -1]


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_nothing_to_use(values):
    modes, assignment = mean_shift_1d(torch.tensor(values), 0.9)
    assert modes.shape == (0,)
    assert assignment.tolist() == [-1] * len(values)


@pytest.mark.parametrize("value", [0.0, 2.5, -17.0, 1e6, 0.3 * 8, 0.3 * 8 * 5])  # the last two: on a cell's border
@pytest.mark.parametrize("count", [1, 50])
def test_constant_values_are_one_mode(value, count):
    modes, assignment = mean_shift_1d(torch.full((count,), value, dtype=torch.float64), 0.9)
    assert modes.tolist() == pytest.approx([value], abs=1e-4)
    assert assignment.tolist() == [0] * count


@pytest.mark.parametrize("count", [50, 175, 5000])
def test_a_ramp_is_one_mode(count):
    # Evenly spaced values have a flat density: its rounding must not make modes.
    values = torch.linspace(2, 9, count)
    modes, assignment = mean_shift_1d(values, 0.9)
    assert len(modes) == 1
    assert (assignment == 0).all()
    assert 2 < modes.item() < 9


def test_two_levels_stay_apart_across_a_flat_floor():
    # The floor between the peaks is level up to rounding; the peaks must not be merged through it.
    values = torch.cat([torch.full((500,), 2.0), torch.linspace(2, 12, 1000), torch.full((500,), 12.0)])
    modes, assignment = mean_shift_1d(values, 0.9)
    near_ends = {round(mode) for mode in modes.tolist()} >= {2, 12}
    assert near_ends
    assert assignment[0] != assignment[-1]


@pytest.mark.parametrize("spread", [1e6, 1e30])
def test_a_huge_range_needs_no_huge_histogram(spread):
    # At bandwidth 0.4 a histogram over the range would have 1e8 bins and more.
    values = torch.cat([torch.tensor([0.0, 0.1, 1.0]), torch.logspace(1, math.log10(spread), 40)])
    modes, assignment = mean_shift_1d(values, 0.4)
    assert len(modes) == 42
    assert assignment[:3].tolist() == [0, 0, 1]
    assert torch.allclose(modes[assignment][3:], values[3:], rtol=1e-6)


def test_table_and_sorting_of_cells_give_the_same():
    # A far outlier switches from the table of cells to sorting.
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2000, generator=generator, dtype=torch.float64) * 30 - 5
    modes, assignment = mean_shift_1d(values, 0.4)
    far_modes, far_assignment = mean_shift_1d(torch.cat([values, torch.tensor([1e12]).double()]), 0.4)
    assert torch.allclose(far_modes[:-1], modes, atol=1e-9)
    assert torch.equal(far_assignment[:-1], assignment)


def test_shifting_the_values_shifts_the_modes():
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(300, generator=generator, dtype=torch.float64) * 6
    modes, assignment = mean_shift_1d(values, 0.9)
    for shift in (0.0117, -3.21, 512.5):
        shifted, same = mean_shift_1d(values + shift, 0.9)
        assert torch.allclose(shifted - shift, modes, atol=1e-4)
        assert torch.equal(same, assignment)


def test_batched_equals_one_at_a_time_in_any_order():
    generator = torch.Generator().manual_seed(2)
    sets = [torch.rand(n, generator=generator) * scale for n, scale in ((200, 5), (0, 1), (1, 9), (300, 20))]
    sets[3][7] = math.nan
    bandwidths = [0.9, 0.4, 0.9, 0.4]
    values = torch.cat(sets)
    segment_ids = torch.repeat_interleave(torch.arange(4), torch.tensor([len(s) for s in sets]))
    shuffle = torch.randperm(len(values), generator=generator)
    modes, mode_segments, assignment = mean_shift_1d_batched(values[shuffle], segment_ids[shuffle], bandwidths)
    unshuffled = torch.empty_like(assignment)
    unshuffled[shuffle] = assignment
    for segment, (own, bandwidth) in enumerate(zip(sets, bandwidths, strict=True)):
        expected_modes, expected = mean_shift_1d(own, bandwidth)
        first = int((mode_segments < segment).sum())
        assert torch.allclose(modes[mode_segments == segment], expected_modes, atol=1e-6)
        found = unshuffled[segment_ids == segment]
        assert torch.equal(torch.where(found >= 0, found - first, found), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=30))
def test_any_values_give_consistent_output(values):
    values = torch.tensor(values, dtype=torch.float32)
    modes, assignment = mean_shift_1d(values, 0.4)
    finite = torch.isfinite(values)
    assert torch.equal(assignment >= 0, finite)
    assert torch.equal(torch.unique(assignment[finite]), torch.arange(len(modes)))
    assert (modes.diff() > 0).all()
    order = values[finite].argsort()
    assert (assignment[finite][order].diff() >= 0).all()  # basins are intervals
    if len(modes):
        assert modes.min() >= values[finite].min() - 1e-3 and modes.max() <= values[finite].max() + 1e-3


def test_weights_of_one_set_do_not_touch_the_others():
    values = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    weights = torch.tensor([1.0, 2.0, 1e12, 2e12, 1e-12, 2e-12], dtype=torch.float64)
    sets = torch.tensor([0, 0, 1, 1, 2, 2])
    modes, mode_sets, assignment = mean_shift_1d_batched(values, sets, [0.9] * 3, weights=weights)
    assert mode_sets.tolist() == [0, 0, 1, 1, 2, 2] and assignment.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(modes, modes[:2].repeat(3))


def test_values_beyond_all_numbers_of_bandwidths():
    values = torch.tensor([1e305, 0.0, -1e308, 1e305, 5e-7, 1.1e305, -1.1e308, 1.0], dtype=torch.float64)
    modes, assignment = mean_shift_1d(values, 1e-6)
    expected, numbers = values.unique(return_inverse=True)
    # 5e-7 is 1.5 sigma from 0: one mode between them
    merged = torch.cat([expected[:2], torch.tensor([2.5e-7], dtype=torch.float64), expected[4:]])
    torch.testing.assert_close(modes, merged, rtol=1e-6, atol=1e-8)
    assert assignment.tolist() == (numbers - (numbers > 2).long()).tolist()
    sets = torch.arange(8) % 2
    modes, mode_sets, assignment = mean_shift_1d_batched(values, sets, [1e-6, 0.1])
    assert mode_sets.tolist() == [0] * 4 + [1] * 4
    torch.testing.assert_close(modes[assignment], values, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12), st.floats(1e-300, 1e300))
def test_any_values_at_any_bandwidth(values, bandwidth):
    values = torch.tensor(values, dtype=torch.float64)
    modes, assignment = mean_shift_1d(values, bandwidth)
    assert torch.isfinite(modes).all() and (modes.diff() > 0).all()
    assert torch.equal(assignment.unique(), torch.arange(len(modes)))
    assert (assignment[values.argsort()].diff() >= 0).all()


@pytest.mark.parametrize(
    ("values", "bandwidth", "weights", "match"),
    [
        (torch.zeros(3), 0.0, None, "bandwidth"),
        (torch.zeros(3), math.nan, None, "bandwidth"),
        (torch.zeros(3, 3), 0.9, None, "values"),
        (torch.zeros(3, dtype=torch.int64), 0.9, None, "values"),
        (torch.zeros(3), 0.9, torch.ones(2), "weights"),
    ],
)
def test_wrong_arguments(values, bandwidth, weights, match):
    with pytest.raises(ValueError, match=match):
        mean_shift_1d(values, bandwidth, weights=weights)


def test_no_gradient_and_same_device():
    values = torch.rand(20, requires_grad=True)
    modes, assignment = mean_shift_1d(values, 0.9)
    assert not modes.requires_grad
    assert modes.device == assignment.device == values.device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_as_the_cpu():
    values = torch.rand(20_000) * 10
    modes, assignment = mean_shift_1d(values, 0.4)
    gpu_modes, gpu_assignment = mean_shift_1d(values.cuda(), 0.4)
    assert torch.allclose(gpu_modes.cpu(), modes, atol=1e-6)
    assert torch.equal(gpu_assignment.cpu(), assignment)
