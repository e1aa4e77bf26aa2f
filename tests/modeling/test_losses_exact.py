"""The exact pair sums against a brute-force oracle that writes out every pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.losses import permutation_invariant_loss

MARGIN, THETA = 1.0, 0.1


def tile_starts(length, side):
    starts = [0]
    while starts[-1] + side < length:
        starts.append(starts[-1] + side // 2)
    return starts


def pair_counts(height, width, side):
    """(HW, HW) matrix: how often a pair of pixels counts in windows of ``side``."""
    if side == 0:
        return torch.ones(height * width, height * width, dtype=torch.float64)
    rows = []
    for top in tile_starts(height, side):
        for left in tile_starts(width, side):
            tile = torch.zeros(height, width, dtype=torch.float64)
            tile[top : top + side, left : left + side] = 1
            rows.append(tile.flatten())
    member = torch.stack(rows)
    member = member / member.sum(0).sqrt()
    return member.T @ member


def huber(x, theta):
    return torch.where(x < theta, x**2 / (2 * theta), x - theta / 2)


def brute_force(
    label_map,
    instance_ids,
    *,
    margin=MARGIN,
    theta=THETA,
    reduction="instances",
    different_weight=1.0,
    window=0,
    same_window=None,
    background_as_instance=False,
):
    same_means, different_means, pair_means = [], [], []
    height, width = label_map.shape[1:]
    for f, ids in zip(label_map, instance_ids, strict=True):
        f, ids = f.flatten(), ids.flatten()
        w = torch.ones_like(f)
        keep = (ids >= 0) if background_as_instance else (ids > 0)
        if reduction == "instances":
            size = ((ids[:, None] == ids) & keep).sum(1)
            w = w / size.clamp(min=1)
        upper = torch.ones(len(f), len(f)).triu(1).bool() & keep[:, None] & keep
        distance = (f[:, None] - f).abs()
        is_same = ids[:, None] == ids
        counts = pair_counts(height, width, window) * w[:, None] * w
        same_counts = counts if same_window is None else pair_counts(height, width, same_window) * w[:, None] * w
        same = upper & is_same & (same_counts > 0)
        different = upper & ~is_same & (counts > 0)
        same_sum = (huber(distance, theta) * same_counts)[same].sum()
        different_sum = (huber((margin - distance).relu(), theta) * counts)[different].sum()
        if same.any():
            same_means.append(same_sum / same_counts[same].sum())
        if different.any():
            different_means.append(different_sum / counts[different].sum())
        if same.any() or different.any():
            total = counts[same].sum() + counts[different].sum()
            pair_means.append((same_sum + different_weight * different_sum) / total)

    def mean(x):
        return sum(x) / len(x) if x else label_map.sum() * 0

    if reduction == "pairs":
        return mean(pair_means)
    return mean(same_means) + different_weight * mean(different_means)


def random_case(seed, shape=(3, 7, 9), instances=4, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    label_map = spread * torch.randn(shape, dtype=torch.float64, generator=generator)
    instance_ids = torch.randint(-1, instances + 1, shape, generator=generator)
    return label_map.requires_grad_(), instance_ids


def assert_agrees(label_map, instance_ids, loss, expected):
    gradient = torch.autograd.grad(loss, label_map)[0]
    expected_gradient = torch.autograd.grad(expected, label_map)[0]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-14)
    error = (gradient - expected_gradient).abs().max()
    assert error <= 1e-7 * expected_gradient.abs().max() + 1e-16, error


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"different_weight": 3.0},
        {"different_weight": 0.0},
        {"margin": 0.7, "theta": 0.25},
        {"margin": 0.2, "theta": 0.2},
        {"margin": 0.3, "theta": 0.8},
        {"margin": 25.0},
        {"background_as_instance": True},
        {"window": 2},
        {"window": 4, "different_weight": 2.0},
        {"window": 8, "background_as_instance": True},
    ],
    ids=str,
)
def test_value_and_gradient_equal_brute_force(reduction, options):
    label_map, instance_ids = random_case(len(str(options)))
    loss = permutation_invariant_loss(label_map, instance_ids, reduction=reduction, **options)
    expected = brute_force(label_map, instance_ids, reduction=reduction, **options)
    assert_agrees(label_map, instance_ids, loss, expected)


@pytest.mark.parametrize("spread", [0.01, 0.3, 50.0])
def test_nearly_solved_and_spread_out_maps_equal_brute_force(spread):
    label_map, instance_ids = random_case(6, spread=spread)
    label_map = (label_map + 1.02 * instance_ids).detach().requires_grad_()
    loss = permutation_invariant_loss(label_map, instance_ids)
    assert_agrees(label_map, instance_ids, loss, brute_force(label_map, instance_ids))


def test_windows_add_up_with_their_factors():
    label_map, instance_ids = random_case(7)
    loss = permutation_invariant_loss(label_map, instance_ids, window=((0, 0.5), (4, 0.25)), different_weight=2.0)
    expected = 0.5 * brute_force(label_map, instance_ids, different_weight=2.0) + 0.25 * brute_force(
        label_map, instance_ids, window=4, different_weight=2.0
    )
    assert_agrees(label_map, instance_ids, loss, expected)


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
def test_window_of_the_size_of_the_map_is_exactly_the_global_loss(reduction):
    label_map, instance_ids = random_case(9)
    everywhere = permutation_invariant_loss(label_map, instance_ids, reduction=reduction)
    for window in (10, 12, 1000):
        windowed = permutation_invariant_loss(label_map, instance_ids, reduction=reduction, window=window)
        assert windowed.item() == everywhere.item()
    assert permutation_invariant_loss(label_map, instance_ids, window=8).item() != everywhere.item()


def test_every_pixel_counts_once_with_itself_in_the_windows():
    # The documented count: 1 for pairs that share all their tiles, less for others, 0 beyond the window.
    counts = pair_counts(13, 10, 4)
    torch.testing.assert_close(counts.diagonal(), torch.ones(130, dtype=torch.float64))
    assert counts.max() <= 1 + 1e-12
    assert counts[0, 4 * 10] == 0  # four rows apart


@pytest.mark.parametrize("options", [{}, {"reduction": "pairs"}, {"window": 4}], ids=str)
def test_gradcheck(options):
    label_map, instance_ids = random_case(10, shape=(2, 5, 6))
    assert torch.autograd.gradcheck(
        lambda f: permutation_invariant_loss(f, instance_ids, **options), (label_map,), eps=1e-7
    )


cases = st.integers(0, 2**31)
reductions = st.sampled_from(["instances", "pairs"])
windows = st.sampled_from([0, 2, 6])


@settings(deadline=None, max_examples=25)
@given(seed=cases, reduction=reductions, window=windows)
def test_relabelling_instances_changes_nothing(seed, reduction, window):
    label_map, instance_ids = random_case(seed)
    # Arbitrary, sparse numbers: 1..4 become something else, 0 and -1 stay.
    steps = torch.randint(1, 2**22, (4,), generator=torch.Generator().manual_seed(seed))
    names = steps.cumsum(0)[torch.randperm(4, generator=torch.Generator().manual_seed(seed))]
    relabelled = torch.where(instance_ids > 0, names[(instance_ids - 1).clamp(min=0)], instance_ids)
    options = {"reduction": reduction, "window": window}
    loss = permutation_invariant_loss(label_map, instance_ids, **options)
    assert_agrees(label_map, instance_ids, loss, permutation_invariant_loss(label_map, relabelled, **options))


@settings(deadline=None, max_examples=25)
@given(seed=cases, shift=st.floats(-100, 100), reduction=reductions, window=windows)
def test_adding_a_constant_to_the_map_changes_nothing(seed, shift, reduction, window):
    label_map, instance_ids = random_case(seed)
    options = {"reduction": reduction, "window": window}
    loss = permutation_invariant_loss(label_map, instance_ids, **options)
    shifted = permutation_invariant_loss(label_map + shift, instance_ids, **options)
    torch.testing.assert_close(shifted, loss, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(seed=cases, reduction=reductions, window=windows)
def test_batch_is_the_mean_of_its_images_if_all_have_every_kind_of_pair(seed, reduction, window):
    label_map, instance_ids = random_case(seed)
    options = {"reduction": reduction, "window": window}
    loss = permutation_invariant_loss(label_map, instance_ids, **options)
    images = [
        permutation_invariant_loss(f[None], k[None], **options) for f, k in zip(label_map, instance_ids, strict=True)
    ]
    torch.testing.assert_close(loss, sum(images) / len(images))


@settings(deadline=None, max_examples=25)
@given(seed=cases, reduction=reductions, instances=st.integers(1, 12), height=st.integers(1, 6))
def test_brute_force_on_arbitrary_small_maps(seed, reduction, instances, height):
    label_map, instance_ids = random_case(seed, shape=(2, height, 5), instances=instances)
    loss = permutation_invariant_loss(label_map, instance_ids, reduction=reduction)
    assert_agrees(label_map, instance_ids, loss, brute_force(label_map, instance_ids, reduction=reduction))


@settings(deadline=None, max_examples=25)
@given(seed=cases, window=windows)
def test_value_with_ties_equals_brute_force_and_gradient_sums_to_zero(seed, window):
    label_map, instance_ids = random_case(seed)
    label_map = (label_map.detach() * 2).round().div(2).requires_grad_()
    loss = permutation_invariant_loss(label_map, instance_ids, window=window)
    expected = brute_force(label_map, instance_ids, window=window)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-14)
    (gradient,) = torch.autograd.grad(loss, label_map)
    assert abs(gradient.sum().item()) < 1e-12


def test_images_without_a_kind_of_pair_do_not_dilute_the_mean():
    # Image 0 has both kinds of pair, image 1 a single instance, image 2 nothing.
    label_map = torch.tensor([[[1.0, 1.3, 1.5]], [[2.0, 2.4, 2.4]], [[9.0, 8.0, 7.0]]], dtype=torch.float64)
    instance_ids = torch.tensor([[[1, 1, 2]], [[4, 4, 0]], [[0, -1, 0]]])
    loss = permutation_invariant_loss(label_map, instance_ids)
    same = (0.3 - 0.05) / 2 + (0.4 - 0.05) / 2
    different = ((1 - 0.5) - 0.05 + (1 - 0.2) - 0.05) / 2
    assert loss.item() == pytest.approx(same + different)
    loss = permutation_invariant_loss(label_map, instance_ids, reduction="pairs", different_weight=3.0)
    first = (0.25 + 3 * (0.45 + 0.75)) / 3
    assert loss.item() == pytest.approx((first + 0.35) / 2)


def test_an_extreme_image_leaves_the_others_their_precision():
    label_map, instance_ids = random_case(12, shape=(1, 8, 8))
    alone = torch.autograd.grad(permutation_invariant_loss(label_map, instance_ids), label_map)[0]
    wild = torch.cat((1e30 * torch.randn(1, 8, 8, dtype=torch.float64), label_map))
    loss = permutation_invariant_loss(wild, instance_ids.expand(2, -1, -1).contiguous())
    both = torch.autograd.grad(loss, label_map)[0]
    torch.testing.assert_close(both, alone / 2, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_foreground_makes_the_loss_non_finite(bad):
    label_map, instance_ids = random_case(13)
    label_map = label_map.detach()
    label_map[1, 2, 3] = bad
    instance_ids[1, 2, 3] = 1
    assert not torch.isfinite(permutation_invariant_loss(label_map, instance_ids))
    instance_ids[1, 2, 3] = -1
    assert torch.isfinite(permutation_invariant_loss(label_map, instance_ids))


def test_gradient_of_one_image_is_independent_of_pixel_order():
    label_map, instance_ids = random_case(14, shape=(1, 6, 6))
    (gradient,) = torch.autograd.grad(permutation_invariant_loss(label_map, instance_ids), label_map)
    flipped = label_map.detach().flip(2).requires_grad_()
    loss = permutation_invariant_loss(flipped, instance_ids.flip(2))
    torch.testing.assert_close(torch.autograd.grad(loss, flipped)[0].flip(2), gradient)


def test_large_map_equals_a_sum_over_a_few_of_its_pixels():
    # A direct derivative for some pixels of a map too large for all pairs at once.
    generator = torch.Generator().manual_seed(15)
    shape = (1, 200, 250)
    instance_ids = torch.randint(0, 20, shape, generator=generator)
    label_map = 0.4 * torch.randn(shape, dtype=torch.float64, generator=generator) + 0.8 * instance_ids
    label_map.requires_grad_()
    loss = permutation_invariant_loss(label_map, instance_ids, reduction="pairs", different_weight=2.0)
    (gradient,) = torch.autograd.grad(loss, label_map)
    keep = instance_ids > 0
    f, ids = label_map.detach()[keep], instance_ids[keep]
    total = len(f) * (len(f) - 1) / 2
    for i in range(0, len(f), 9973):
        d = f[i] - f
        attraction = (d / THETA).clamp(-1, 1)
        repulsion = -((MARGIN - d.abs()) / THETA).clamp(0, 1) * d.sign()
        expected = torch.where(ids == ids[i], attraction, 2 * repulsion).sum() / total
        assert gradient[keep][i].item() == pytest.approx(expected.item(), rel=1e-7, abs=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [0, 4])
def test_gpu_agrees_with_cpu(window):
    label_map, instance_ids = random_case(16)
    loss = permutation_invariant_loss(label_map, instance_ids, window=window)
    on_gpu = permutation_invariant_loss(label_map.cuda(), instance_ids.cuda(), window=window)
    assert on_gpu.device.type == "cuda"
    assert_agrees(label_map, instance_ids, on_gpu.cpu(), loss)
