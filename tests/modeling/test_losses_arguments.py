"""Wrong arguments of the losses are named."""

import pytest
import torch

from dvis_d2.modeling.losses import (
    binary_loss,
    mumford_shah_loss,
    permutation_invariant_loss,
    quantization_loss,
)

GOOD = (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "label_map, instance_ids, message",
    [
        (torch.zeros(4, 4), GOOD[1], "must be float"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), GOOD[1], "must be float"),
        (GOOD[0], torch.zeros(1, 4, 5, dtype=torch.int64), "instance_ids must be int64"),
        (GOOD[0], torch.zeros(1, 4, 4, dtype=torch.int32), "instance_ids must be int64"),
    ],
)
@pytest.mark.parametrize("term", [binary_loss, permutation_invariant_loss, mumford_shah_loss, quantization_loss])
def test_wrong_maps_are_named(term, label_map, instance_ids, message):
    with pytest.raises(ValueError, match=f"{term.__name__}.*{message}"):
        term(label_map, instance_ids)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"margin": 0.0}, "margin must be"),
        ({"theta": -1.0}, "theta must be"),
        ({"theta": float("nan")}, "theta must be"),
        ({"different_weight": -1.0}, "different_weight"),
        ({"reduction": "mean"}, "reduction must be 'instances' or 'pairs'"),
        ({"pairs": "all"}, "pairs must be one of"),
        ({"window": 3}, "window must be even"),
        ({"window": ((8, 0.5), (-2, 0.5))}, "window must be even"),
        ({"window": ((8, -0.5),)}, "factor >= 0"),
        ({"window": ()}, "window must name"),
        ({"center": 4}, "center does not apply to pairs='exact'"),
        ({"num_pairs": 4}, "num_pairs does not apply"),
        ({"pairs": "stratified", "window": 8}, "window must be one odd number"),
        ({"pairs": "stratified", "window": ((0, 1.0),)}, "window must be one odd number"),
        ({"pairs": "stratified", "dilation": 0}, "center and dilation"),
        ({"pairs": "stratified", "num_pairs": 3}, "num_pairs does not apply"),
        ({"pairs": "stratified", "generator": torch.Generator()}, "generator does not apply"),
        ({"pairs": "random", "window": 8}, "window does not apply"),
        ({"pairs": "random", "dilation": 3}, "dilation does not apply"),
        ({"pairs": "random", "num_pairs": 0}, "num_pairs must be"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        permutation_invariant_loss(*GOOD, **options)


def test_wrong_options_of_the_other_terms_are_named():
    with pytest.raises(ValueError, match="area_exponent must be"):
        binary_loss(*GOOD, area_exponent=-1.0)
    with pytest.raises(ValueError, match="kind must be"):
        mumford_shah_loss(GOOD[0], kind="potts")
    with pytest.raises(ValueError, match="scale must be"):
        mumford_shah_loss(GOOD[0], kind="welsch", scale=0.0)


def test_second_derivative_is_refused():
    label_map = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    instance_ids = torch.randint(0, 3, (2, 5, 6))
    scale = torch.tensor(2.0, requires_grad=True)
    loss = permutation_invariant_loss(label_map, instance_ids) * scale
    (gradient,) = torch.autograd.grad(loss, label_map, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
