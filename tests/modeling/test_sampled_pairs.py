"""Stratified pairs against a slow loop over pixels and offsets; random pairs against the exact loss."""

import pytest
import torch

from dvis_d2.modeling.losses import permutation_invariant_loss
from dvis_d2.modeling.sampled_pairs import stratified_offsets

MARGIN, THETA = 1.0, 0.1


def huber(x):
    return x * x / (2 * THETA) if x < THETA else x - THETA / 2


def slow_stratified(f, ids, *, window, center, dilation, reduction, different_weight):
    """Visits every unordered pair of pixels once and asks whether the paper's pattern contains it."""
    means = {"same": [], "different": [], "pairs": []}
    for values, names in zip(f, ids, strict=True):
        height, width = values.shape
        pixels = [(y, x) for y in range(height) for x in range(width) if names[y, x] > 0]
        sums, totals = {"same": 0, "different": 0}, {"same": 0.0, "different": 0.0}
        for a, (y, x) in enumerate(pixels):
            for v, u in pixels[a + 1 :]:
                dy, dx = abs(v - y), abs(u - x)
                if max(dy, dx) > window // 2:
                    continue
                dense = max(dy, dx) <= center
                if not dense and (dy % dilation or dx % dilation):
                    continue
                weight = 1.0
                if reduction == "instances":
                    weight /= (names == names[y, x]).sum().item() * (names == names[v, u]).sum().item()
                d = (values[y, x] - values[v, u]).abs()
                kind = "same" if names[y, x] == names[v, u] else "different"
                cost = huber(d) if kind == "same" else huber((MARGIN - d).relu())
                sums[kind] = sums[kind] + weight * cost
                totals[kind] += weight
        for kind in ("same", "different"):
            if totals[kind]:
                means[kind].append(sums[kind] / totals[kind])
        if any(totals.values()):
            numerator = sums["same"] + different_weight * sums["different"]
            means["pairs"].append(numerator / sum(totals.values()))
    same, different, pairs = (
        sum(means[k]) / len(means[k]) if means[k] else f.sum() * 0 for k in ("same", "different", "pairs")
    )
    return pairs if reduction == "pairs" else same + different_weight * different


def random_case(seed, shape, instances=3):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    return f, torch.randint(-1, instances + 1, shape, generator=generator)


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
@pytest.mark.parametrize("window, center, dilation", [(7, 1, 2), (9, 2, 3), (5, 2, 4), (21, 1, 1)])
def test_stratified_equals_a_slow_loop(reduction, window, center, dilation):
    f, ids = random_case(window, (2, 6, 8))
    options = {
        "window": window,
        "center": center,
        "dilation": dilation,
        "reduction": reduction,
        "different_weight": 2.0,
    }
    loss = permutation_invariant_loss(f, ids, pairs="stratified", **options)
    expected = slow_stratified(f, ids, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-14)
    gradients = (torch.autograd.grad(x, f)[0] for x in (loss, expected))
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-14)


def test_defaults_are_the_papers_window_center_and_dilation():
    offsets = stratified_offsets(129, 8, 8)
    assert len(offsets) == len(set(offsets)) == (17 * 17 - 1) // 2 + (17 * 17 - 9) // 2
    assert sum(max(dy, abs(dx)) > 8 for dy, dx in offsets) == (17 * 17 - 9) // 2
    assert max(max(dy, abs(dx)) for dy, dx in offsets) == 64
    assert not {(-dy, -dx) for dy, dx in offsets} & set(offsets)
    f, ids = random_case(1, (1, 20, 30))
    default = permutation_invariant_loss(f, ids, pairs="stratified")
    explicit = permutation_invariant_loss(f, ids, pairs="stratified", window=129, center=8, dilation=8)
    assert default.item() == explicit.item()


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
def test_dense_stratified_pairs_of_a_small_map_are_all_pairs(reduction):
    f, ids = random_case(2, (2, 6, 7))
    options = {"reduction": reduction, "different_weight": 2.0}
    exact = permutation_invariant_loss(f, ids, background_as_instance=True, **options)
    sampled = permutation_invariant_loss(f, ids, pairs="stratified", window=17, background_as_instance=True, **options)
    torch.testing.assert_close(sampled, exact)
    gradients = (torch.autograd.grad(x, f)[0] for x in (sampled, exact))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
def test_random_pairs_estimate_the_exact_loss_and_gradient(reduction):
    f, ids = random_case(3, (2, 5, 6))
    options = {"reduction": reduction, "different_weight": 2.0}
    exact = permutation_invariant_loss(f, ids, **options)
    generator = torch.Generator().manual_seed(0)
    sampled = permutation_invariant_loss(f, ids, pairs="random", num_pairs=400_000, generator=generator, **options)
    torch.testing.assert_close(sampled, exact, rtol=0.01, atol=0)
    gradients = [torch.autograd.grad(x, f)[0] for x in (sampled, exact)]
    error = (gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max()
    assert error < 0.05


def test_random_pairs_follow_their_generator_and_join_two_pixels():
    f, ids = random_case(4, (1, 5, 6))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return permutation_invariant_loss(f, ids, pairs="random", num_pairs=10, generator=generator).item()

    assert draw(0) == draw(0) != draw(1)
    # Two pixels: whatever is drawn is the one pair there is.
    two = torch.tensor([[[1.0, 0.0, 1.3]]], requires_grad=True)
    names = torch.tensor([[[1, 0, 2]]])
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        loss = permutation_invariant_loss(two, names, pairs="random", num_pairs=3, generator=generator)
        assert loss.item() == pytest.approx(0.65)


def test_random_pairs_stay_within_their_image():
    # The images differ so much that any pair across them would show as a huge loss.
    f = torch.tensor([[[1.0, 1.02]], [[500.0, 500.02]], [[0.0, 0.0]]], dtype=torch.float64)
    ids = torch.tensor([[[1, 1]], [[1, 1]], [[0, 1]]])
    loss = permutation_invariant_loss(f, ids, pairs="random", num_pairs=100)
    assert loss.item() == pytest.approx(0.002)
