"""Losses of numbers at the edge: huge labels, huge ids, tiny options."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.criterion import VariationalCriterion
from dvis_d2.modeling.losses import binary_loss, huber_loss, mumford_shah_loss, quantization_loss

from .test_losses import all_terms

IDS = torch.tensor([[[0, 1, 1, -1], [0, 2, 3, 3], [1, 1, 0, 0]]])
LARGEST = torch.finfo(torch.float32).max


def floats(limit):
    limit = torch.tensor(limit).item()  # one of float32
    return st.lists(st.floats(-limit, limit, width=32), min_size=IDS.numel(), max_size=IDS.numel())


def assert_finite(terms, label_map):
    for number, loss in enumerate(terms):
        assert torch.isfinite(loss), number
        assert torch.isfinite(torch.autograd.grad(loss, label_map)[0]).all(), number


@settings(max_examples=40, deadline=None)
@given(floats(1e38))
def test_every_term_and_its_gradient_are_finite(values):
    label_map = torch.tensor(values).view_as(IDS).requires_grad_()
    assert_finite(all_terms(label_map, IDS), label_map)


@settings(max_examples=40, deadline=None)
@given(floats(LARGEST), st.floats(1e-9, 1e9))
def test_the_regularizers_are_finite_for_all_numbers(values, scale):
    label_map = torch.tensor(values).view_as(IDS).requires_grad_()
    terms = [mumford_shah_loss(label_map, IDS, kind=kind) for kind in ("cauchy", "truncated")]
    terms += [mumford_shah_loss(label_map, kind="welsch", scale=scale), quantization_loss(label_map, IDS)]
    assert_finite(terms, label_map)


def test_the_regularizers_of_large_jumps_by_hand():
    label_map = torch.tensor([[[0.0, 1e15], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    loss = mumford_shah_loss(label_map)
    jump = torch.tensor(1e15, dtype=torch.float64).square()
    # the jump to the right of the first pixel, and the one below the second
    torch.testing.assert_close(loss, 2 * jump.log1p() / 4)
    gradient = torch.autograd.grad(loss, label_map)[0][0, 0, 1]
    torch.testing.assert_close(gradient, 4 / label_map.detach()[0, 0, 1] / 4)
    assert mumford_shah_loss(label_map, kind="truncated").item() == 0.5


@pytest.mark.parametrize("theta", [1e-3, 0.1, 10.0, 1e6])
def test_huber_of_the_largest_number_is_finite(theta):
    assert huber_loss(torch.tensor([LARGEST]), theta).item() == LARGEST


def test_terms_that_wait_are_0_for_large_labels():
    criterion = VariationalCriterion(ms_start=5, quant_start=5, pi_weight=0.0, binary_weight=0.0)
    label_map = torch.full((2, 40, 40), 1e38, requires_grad=True)
    losses = criterion(label_map, torch.ones(2, 40, 40, dtype=torch.int64))
    assert [loss.item() for loss in losses.values()] == [0, 0]


@pytest.mark.parametrize("largest", [2**31, 2**62, 2**63 - 1])
def test_large_ids_are_ids_like_others(largest):
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(-1, 4, (3, 6, 7), generator=generator)
    large = torch.where(small > 0, largest - 4 + small, small)
    label_map = torch.rand(3, 6, 7, generator=generator, dtype=torch.float64)
    for seed in range(2):
        found = []
        for ids in (small, large):
            torch.manual_seed(seed)  # random pairs
            found.append(torch.stack(list(all_terms(label_map, ids))))
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_a_large_area_exponent_leaves_the_smallest_instance():
    ids = torch.tensor([[[1, 1, 1], [1, 2, 2]]])
    logits = torch.tensor([[[9.0, 9.0, 9.0], [9.0, 1.0, 1.0]]])  # only the second misses the margin of 2
    loss = binary_loss(logits, ids, theta=0.1, area_exponent=1000.0)
    torch.testing.assert_close(loss, torch.tensor(0.95))
