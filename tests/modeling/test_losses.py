"""The terms of the loss by hand arithmetic, one test per equation, and what all of them promise."""

import math

import pytest
import torch

from dvis_d2.modeling.losses import (
    binary_loss,
    huber_loss,
    mumford_shah_loss,
    permutation_invariant_loss,
    quantization_loss,
)


def maps(values, ids, dtype=torch.float64):
    return torch.tensor([values], dtype=dtype, requires_grad=True), torch.tensor([ids])


def all_terms(label_map, instance_ids):
    yield binary_loss(label_map, instance_ids)
    yield binary_loss(label_map, instance_ids, balance=False)
    yield binary_loss(label_map, instance_ids, area_exponent=1.0)
    for reduction in ("instances", "pairs"):
        for options in (
            {},
            {"window": 2},
            {"window": ((0, 0.5), (4, 0.5))},
            {"background_as_instance": True},
            {"pairs": "stratified", "window": 5, "center": 1, "dilation": 2},
            {"pairs": "random", "num_pairs": 50},
        ):
            yield permutation_invariant_loss(label_map, instance_ids, reduction=reduction, **options)
    for kind in ("cauchy", "truncated", "welsch"):
        yield mumford_shah_loss(label_map, instance_ids, kind=kind)
    yield quantization_loss(label_map, instance_ids)


def test_huber_is_a_parabola_then_a_line():
    x = torch.tensor([0.0, 0.05, 0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(huber_loss(x), torch.tensor([0.0, 0.0125, 0.05, 0.25], dtype=torch.float64))
    torch.testing.assert_close(huber_loss(x, theta=0.4)[3].item(), 0.09 / 0.8)


def test_eq_3_binary():
    f, ids = maps([[-1.0, 0.5, 2.5, 1.5], [-0.5, 9.0, 0.0, 0.0]], [[0, 0, 1, 2], [3, -1, -1, -1]])
    # Background: 0 and 0.45. Foreground: 0, 0.45 and, because nothing stops at 0, 2.45.
    loss = binary_loss(f, ids)
    assert loss.item() == pytest.approx(0.45 / 2 + 2.9 / 3)
    assert binary_loss(f, ids, balance=False).item() == pytest.approx(3.35 / 5)
    (gradient,) = torch.autograd.grad(loss, f)
    expected = torch.tensor([[[0, 1 / 2, 0, -1 / 3], [-1 / 3, 0, 0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("balance", [True, False])
def test_area_exponent_evens_instances_out(balance):
    # Instances of 3 and 1 pixels in the first image, and of 1 pixel in the second, where ids begin anew.
    f = torch.tensor([[[1.0, 1.5, 1.5, 0.0, 0.3]], [[0.5, 9.0, -1.0, -1.0, -1.0]]], dtype=torch.float64)
    ids = torch.tensor([[[1, 1, 1, 2, 0]], [[1, -1, 0, 0, 0]]])
    costs = torch.tensor([0.95, 0.45, 0.45, 1.95, 1.45], dtype=torch.float64)  # margin 2, theta 0.1
    background = 0.25  # of one pixel of four
    for exponent, weights in ((0.0, [1, 1, 1, 1, 1]), (1.0, [1 / 3] * 3 + [1, 1]), (0.5, [3**-0.5] * 3 + [1, 1])):
        weights = torch.tensor(weights, dtype=torch.float64)
        mean = ((weights * costs).sum() / weights.sum()).item()
        expected = mean + background / 4 if balance else (5 * mean + background) / 9
        assert binary_loss(f, ids, balance=balance, area_exponent=exponent).item() == pytest.approx(expected)


def test_eqs_4_and_5_permutation_invariant():
    f, ids = maps([[2.0, 2.05, 2.5, 9.0]], [[1, 1, 2, 0]])
    # Same: 0.05 apart, L_h = 0.0125. Different: 0.5 and 0.45 apart, L_h(0.5) = 0.45, L_h(0.55) = 0.5.
    pairs = permutation_invariant_loss(f, ids, reduction="pairs", different_weight=3.0)
    assert pairs.item() == pytest.approx((0.0125 + 3 * 0.95) / 3)
    instances = permutation_invariant_loss(f, ids, different_weight=3.0)
    assert instances.item() == pytest.approx(0.0125 + 3 * 0.95 / 2)
    (gradient,) = torch.autograd.grad(instances, f)
    expected = torch.tensor([[[-0.5 + 1.5, 0.5 + 1.5, -3.0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_eq_5_is_zero_beyond_the_margin_and_between_equal_labels():
    f, ids = maps([[2.0, 2.0, 3.0, 3.0, 4.5]], [[7, 7, 3, 3, 5]])
    loss = permutation_invariant_loss(f, ids)
    assert abs(loss.item()) < 1e-15
    assert torch.autograd.grad(loss, f)[0].abs().max() < 1e-12


def test_ignored_pixels_form_no_pairs_and_background_only_when_asked():
    f, ids = maps([[2.0, 2.3, 2.4]], [[1, 0, -1]])
    assert permutation_invariant_loss(f, ids).item() == 0
    loss = permutation_invariant_loss(f, ids, background_as_instance=True)
    assert loss.item() == pytest.approx(0.65)


def test_eq_6_truncated():
    f, _ = maps([[1.0, 1.5], [1.0, 4.0]], [[1, 1], [1, 1]])
    # g: 0.25 + 0, 0 + 6.25, 9 + 0 and 0.
    loss = mumford_shah_loss(f, kind="truncated")
    assert loss.item() == pytest.approx((0.25 + 1 + 1 + 0) / 4)


def test_eq_7_cauchy():
    f, ids = maps([[1.0, 1.5], [1.0, 4.0]], [[1, 1], [1, 1]])
    expected = (math.log(1.25) + math.log(7.25) + math.log(10)) / 4
    assert mumford_shah_loss(f).item() == pytest.approx(expected)
    # Without the lower right pixel one difference is left, and three pixels.
    ids[0, 1, 1] = -1
    assert mumford_shah_loss(f, ids).item() == pytest.approx(math.log(1.25) / 3)


def test_welsch_counts_edges_as_its_scale_goes_to_zero():
    f, _ = maps([[1.0, 1.5], [1.0, 4.0]], [[1, 1], [1, 1]])
    loss = mumford_shah_loss(f, kind="welsch", scale=2.0)
    expected = 3 - math.exp(-0.25 / 8) - math.exp(-6.25 / 8) - math.exp(-9 / 8)
    assert loss.item() == pytest.approx(expected / 4)
    assert mumford_shah_loss(f, kind="welsch", scale=0.01).item() == pytest.approx(3 / 4)


def test_mumford_shah_sees_the_map_after_the_relu():
    f, _ = maps([[-3.0, 0.0, -1.0]], [[0, 0, 0]])
    loss = mumford_shah_loss(f)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, f)[0].abs().sum() == 0


def test_quantization_is_the_distance_to_the_nearest_integer_of_positive_labels():
    f, ids = maps([[1.25, 2.6, -0.3, 0.0], [5.0, 0.4, 7.5, -2.0]], [[1, 1, 1, 0], [1, 0, -1, -1]])
    assert quantization_loss(f).item() == pytest.approx((0.25 + 0.4 + 0 + 0.4 + 0.5) / 5)
    loss = quantization_loss(f, ids)
    assert loss.item() == pytest.approx((0.25 + 0.4 + 0 + 0.4) / 4)
    (gradient,) = torch.autograd.grad(loss, f)
    expected = torch.tensor([[[0.25, -0.25, 0, 0], [0, 0.25, 0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


DEGENERATE = {
    "empty batch": torch.zeros(0, 4, 4, dtype=torch.int64),
    "empty map": torch.zeros(1, 0, 4, dtype=torch.int64),
    "background": torch.zeros(2, 4, 4, dtype=torch.int64),
    "ignored": torch.full((2, 4, 4), -1),
    "one pixel": torch.nn.functional.pad(torch.ones(2, 1, 1, dtype=torch.int64), (0, 3, 3, 0)),
    "one instance": torch.ones(2, 4, 4, dtype=torch.int64),
    "all different": torch.arange(1, 33).view(2, 4, 4),
    "1 x 1": torch.ones(1, 1, 1, dtype=torch.int64),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_maps_are_finite_with_a_gradient_path(name):
    ids = DEGENERATE[name]
    f = torch.randn(ids.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for loss in all_terms(f, ids):
        assert loss.dim() == 0 and torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, f)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["background", "ignored", "one pixel", "1 x 1"])
def test_no_pair_means_zero_loss_and_zero_gradient(name):
    ids = DEGENERATE[name]
    f = torch.randn(ids.shape).requires_grad_()
    for options in ({}, {"pairs": "stratified"}, {"pairs": "random"}):
        loss = permutation_invariant_loss(f, ids, **options)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, f)[0].abs().sum() == 0


@pytest.mark.parametrize("reduction", ["instances", "pairs"])
def test_one_instance_has_no_trace_of_the_different_term(reduction):
    f = 5 * torch.rand(1, 20, 30, dtype=torch.float64)
    ids = torch.ones(1, 20, 30, dtype=torch.int64)
    options = {"reduction": reduction, "window": ((0, 1.0), (4, 1.0))}
    without = permutation_invariant_loss(f, ids, different_weight=0.0, **options)
    assert permutation_invariant_loss(f, ids, different_weight=1e12, **options).item() == without.item()


def test_ignored_values_never_reach_the_loss():
    f = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 4, (2, 6, 6), generator=torch.Generator().manual_seed(2))
    ids[:, 2:4, 1:5] = -1
    torch.manual_seed(0)
    expected = [loss.item() for loss in all_terms(f, ids)]
    f[ids == -1] = float("nan")
    f.requires_grad_()
    torch.manual_seed(0)
    for loss, value in zip(all_terms(f, ids), expected, strict=True):
        assert loss.item() == value
        assert torch.isfinite(torch.autograd.grad(loss, f)[0]).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_predictions_make_every_term_non_finite(bad):
    ids = torch.randint(1, 4, (1, 6, 6), generator=torch.Generator().manual_seed(3))
    f = torch.rand(1, 6, 6)
    f[0, 3, 3] = bad
    terms = {
        "binary": binary_loss(-f, ids),
        "exact": permutation_invariant_loss(f, ids),
        "stratified": permutation_invariant_loss(f, ids, pairs="stratified"),
        "random": permutation_invariant_loss(f, ids, pairs="random"),
        "mumford_shah": mumford_shah_loss(f, ids),
        "quantization": quantization_loss(f, ids),
    }
    assert not [name for name, loss in terms.items() if torch.isfinite(loss)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_agree_with_float64(dtype):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(-1, 5, (2, 12, 12), generator=generator)
    values = (3 * torch.rand(2, 12, 12, generator=generator)).to(dtype)
    f, reference = values.clone().requires_grad_(), values.double().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = list(all_terms(f, ids))
    torch.manual_seed(0)
    for loss, expected in zip(losses, all_terms(reference, ids), strict=True):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
        (gradient,), (exact,) = torch.autograd.grad(loss, f), torch.autograd.grad(expected, reference)
        assert gradient.dtype == dtype
        tolerance = max(1e-4, 2 * torch.finfo(dtype).eps) * exact.abs().max()
        torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=tolerance.item())


def test_float16_gradients_survive_with_a_gradient_scaler():
    # A pixel's share is about 1e-9, far below float16's smallest number.
    ids = torch.ones(1, 100, 100, dtype=torch.int64)
    f = torch.linspace(0, 0.01, 10_000).view(1, 100, 100).half().requires_grad_()
    (gradient,) = torch.autograd.grad(permutation_invariant_loss(f, ids) * 2**16, f)
    (exact,) = torch.autograd.grad(permutation_invariant_loss(f.double(), ids) * 2**16, f)
    assert gradient.count_nonzero() > 9_000
    torch.testing.assert_close(gradient, exact, rtol=1e-2, atol=1e-6)


def test_scaling_the_map_margin_and_theta_scales_the_pairwise_loss():
    f = torch.randn(1, 8, 8, dtype=torch.float64)
    ids = torch.randint(0, 4, (1, 8, 8))
    loss = permutation_invariant_loss(f, ids)
    scaled = permutation_invariant_loss(3 * f, ids, margin=3.0, theta=0.3)
    torch.testing.assert_close(scaled, 3 * loss)
