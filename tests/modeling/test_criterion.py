import pytest
import torch
from detectron2.modeling import build_backbone

from dvis_d2.modeling import MeanShiftProposer
from dvis_d2.modeling.criterion import VariationalCriterion
from dvis_d2.modeling.losses import (
    binary_loss,
    mumford_shah_loss,
    permutation_invariant_loss,
    quantization_loss,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 10, 12, generator=generator)
    return logits.requires_grad_(), torch.randint(-1, 4, (2, 10, 12), generator=generator)


def test_terms_are_the_weighted_functions_on_the_raw_output(batch):
    logits, ids = batch
    criterion = VariationalCriterion(
        binary_weight=3.0,
        binary_margin=1.5,
        binary_balance=False,
        binary_area_exponent=0.5,
        pi_weight=0.7,
        pi_margin=0.8,
        pi_reduction="instances",
        pi_different_weight=2.5,
        pi_windows=((0, 0.5), (4, 0.5)),
        pi_background=True,
        ms_weight=0.2,
        ms_kind="truncated",
        quant_weight=0.3,
        theta=0.2,
    )
    expected = {
        "loss_binary": 3.0 * binary_loss(logits, ids, margin=1.5, theta=0.2, balance=False, area_exponent=0.5),
        "loss_pi": 0.7
        * permutation_invariant_loss(
            logits,
            ids,
            margin=0.8,
            theta=0.2,
            different_weight=2.5,
            window=((0, 0.5), (4, 0.5)),
            background_as_instance=True,
        ),
        "loss_ms": 0.2 * mumford_shah_loss(logits.relu(), ids, kind="truncated"),
        "loss_quant": 0.3 * quantization_loss(logits.relu(), ids),
    }
    losses = criterion(logits, ids)
    assert list(losses) == list(expected)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


def test_foreground_below_zero_is_pulled_by_both_main_terms(batch):
    logits, ids = batch
    criterion = VariationalCriterion()
    below = (logits < -0.2) & (ids > 0)
    losses = criterion(logits, ids)
    for name in ("loss_binary", "loss_pi"):
        (gradient,) = torch.autograd.grad(losses[name], logits)
        assert (gradient[below] != 0).float().mean() > 0.9


def test_sampled_pairs_and_the_pairs_reduction_reach_the_loss(batch):
    logits, ids = batch
    criterion = VariationalCriterion(
        pi_pairs="stratified",
        pi_center=1,
        pi_dilation=2,
        pi_reduction="pairs",
        pi_different_weight=1.5,
    )
    expected = permutation_invariant_loss(
        logits,
        ids,
        pairs="stratified",
        center=1,
        dilation=2,
        reduction="pairs",
        different_weight=1.5,
    )
    torch.testing.assert_close(criterion(logits, ids)["loss_pi"], expected)
    default = permutation_invariant_loss(logits, ids, pairs="stratified", reduction="pairs", different_weight=1.5)
    assert not torch.isclose(expected, default)


def test_late_terms_are_zero_but_present_until_their_start(batch):
    criterion = VariationalCriterion(ms_start=100, quant_start=50)
    logits, _ = batch
    for iteration, late in ((0, {"loss_ms", "loss_quant"}), (50, {"loss_ms"}), (100, set())):
        losses = criterion(*batch, iteration=iteration)
        assert list(losses) == ["loss_binary", "loss_pi", "loss_ms", "loss_quant"]
        assert {name for name, loss in losses.items() if loss.item() == 0} == late
        (gradient,) = torch.autograd.grad(sum(losses.values()), logits)
        assert torch.isfinite(gradient).all()


def test_terms_of_weight_zero_are_absent(batch):
    assert list(VariationalCriterion(ms_weight=0, quant_weight=0)(*batch)) == ["loss_binary", "loss_pi"]


@pytest.mark.parametrize("fill", [0, -1])
def test_images_without_objects_keep_the_keys_and_the_gradient_path(fill):
    logits = torch.randn(2, 4, 4, requires_grad=True)
    losses = VariationalCriterion()(logits, torch.full((2, 4, 4), fill))
    assert list(losses) == ["loss_binary", "loss_pi", "loss_ms", "loss_quant"]
    (gradient,) = torch.autograd.grad(sum(losses.values()), logits)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "options, message",
    [({"binary_weight": -1.0}, "loss_binary"), ({"ms_start": -1}, "loss_ms")],
)
def test_negative_weights_and_starts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VariationalCriterion(**options)


def test_windows_of_sampled_pairs_are_refused(batch):
    criterion = VariationalCriterion(pi_pairs="random", pi_windows=((16, 1.0),))
    with pytest.raises(ValueError, match="window does not apply to pairs='random'"):
        criterion(*batch)


def test_gradient_descent_separates_objects():
    """Free labels under the whole loss: equal inside, apart between, background not above 0."""
    ids = torch.zeros(1, 12, 12, dtype=torch.int64)
    ids[0, 1:5, 1:5], ids[0, 6:11, 2:6], ids[0, 3:9, 8:11] = 1, 2, 3
    logits = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    criterion = VariationalCriterion(ms_weight=0.0, quant_weight=0.0)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        sum(criterion(logits, ids).values()).backward()
        optimizer.step()
    labels = logits.detach()
    means = torch.stack([labels[ids == k].mean() for k in (1, 2, 3)])
    assert max(labels[ids == k].std().item() for k in (1, 2, 3)) < 0.1
    assert (means.sort().values.diff() > 0.8).all()
    assert labels[ids == 0].max() < 0.3 < labels[ids > 0].min()


def test_windows_may_follow_a_phase_of_all_pairs(batch):
    logits, ids = batch
    late = VariationalCriterion(pi_windows=((4, 1.0),), pi_windows_start=5)
    for iteration, options in ((4, {}), (5, {"window": 4})):
        loss = late(logits, ids, iteration)["loss_pi"]
        expected = permutation_invariant_loss(logits, ids, reduction="instances", different_weight=2.0, **options)
        assert loss.item() == pytest.approx(expected.item())
    assert late(logits, ids, 4)["loss_pi"] != late(logits, ids, 5)["loss_pi"]


def test_the_scale_of_welsch_falls_geometrically_from_its_start_to_the_end(batch):
    logits, ids = batch
    criterion = VariationalCriterion(ms_kind="welsch", ms_scale=(4.0, 0.25), ms_weight=1.0, ms_start=100, ms_end=300)
    for iteration, scale in ((100, 4.0), (150, 2.0), (200, 1.0), (300, 0.25), (900, 0.25)):
        expected = mumford_shah_loss(logits, ids, kind="welsch", scale=scale)
        torch.testing.assert_close(criterion(logits, ids, iteration)["loss_ms"], expected)
    assert criterion(logits, ids, 99)["loss_ms"].item() == 0


def test_the_scale_of_welsch_has_a_default_and_may_be_constant(batch):
    logits, ids = batch
    losses = VariationalCriterion(ms_kind="welsch", ms_weight=1.0, ms_end=10)(logits, ids, 10)
    torch.testing.assert_close(losses["loss_ms"], mumford_shah_loss(logits, ids, kind="welsch", scale=0.1))
    losses = VariationalCriterion(ms_kind="welsch", ms_weight=1.0, ms_scale=(0.5, 0.5))(logits, ids, 7)
    torch.testing.assert_close(losses["loss_ms"], mumford_shah_loss(logits, ids, kind="welsch", scale=0.5))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ms_scale": (1.0, 0.1)}, "ms_scale .* needs ms_kind='welsch', not 'cauchy'"),
        ({"ms_kind": "welsch", "ms_scale": (1.0,), "ms_end": 9}, "two positive numbers"),
        ({"ms_kind": "welsch", "ms_scale": (1.0, 0.0), "ms_end": 9}, "two positive numbers"),
        ({"ms_kind": "welsch"}, "ms_end"),
    ],
)
def test_scales_that_do_not_fit_the_kind_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VariationalCriterion(**options)


def test_config_sets_the_scale_of_welsch(tiny_cfg):
    tiny_cfg.MODEL.VARIATIONAL_LOSS.MS_KIND = "welsch"
    tiny_cfg.MODEL.VARIATIONAL_LOSS.MS_SCALE = (2.0, 0.5)
    shapes = build_backbone(tiny_cfg).output_shape()
    criterion = MeanShiftProposer.from_config(tiny_cfg, shapes)["criterion"]
    assert criterion.ms_scale == (2.0, 0.5)
    assert criterion.ms_end == tiny_cfg.SOLVER.MAX_ITER
