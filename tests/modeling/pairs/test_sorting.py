import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.losses import permutation_invariant_loss
from dvis_d2.modeling.pairs import sorting
from dvis_d2.modeling.pairs.sorting import ascending_bits, partner_ranges, stable_argsort, true_positions

integers = st.one_of(st.integers(-3, 3), st.integers(-(2**17), 2**17), st.integers(-(2**63), 2**63 - 1))


@settings(deadline=None)
@given(keys=st.lists(integers), seed=st.integers(0, 100))
def test_stable_argsort_is_torchs(keys, seed):
    keys = torch.tensor(keys, dtype=torch.int64)
    assert stable_argsort(keys).equal(keys.argsort(stable=True))
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))
    assert stable_argsort(keys, order).equal(order[keys[order].argsort(stable=True)])


@pytest.mark.parametrize("edge", [2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**48, -(2**15), -(2**15) - 1])
def test_stable_argsort_at_the_edges_of_its_digits(edge):
    keys = torch.tensor([edge, 0, edge - 1, -1, edge, 1])
    assert stable_argsort(keys).equal(keys.argsort(stable=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bits_sort_as_the_floats(dtype):
    values = torch.tensor([3.5, -2.0, 0.0, 1e-3, float("inf"), -float("inf"), -1e-3, 2.0], dtype=dtype)
    assert stable_argsort(ascending_bits(values)).equal(values.argsort(stable=True))


def brute_force_ranges(key, distance):
    first = [sum(other < x - distance for other in key) for x in key]
    return first, [sum(f <= j for f in first) for j in range(len(key))]


@settings(deadline=None)
@given(gaps=st.lists(st.sampled_from([0.0, 0.25, 0.5, 3.0])), distance=st.sampled_from([0.6, 1.1, 3.1]))
@pytest.mark.parametrize("numpy", [True, False])
def test_ranges_of_partners_equal_brute_force(numpy, gaps, distance):
    key = 4 + torch.tensor(gaps, dtype=torch.float64).cumsum(0)
    with pytest.MonkeyPatch.context() as patch:
        if not numpy:
            patch.setattr(sorting, "np", None)
        first, last = partner_ranges(key, distance)
    assert (first.tolist(), last.tolist()) == brute_force_ranges(key.tolist(), distance)


@pytest.mark.parametrize("numpy", [True, False])
def test_ranges_stay_inside_and_agree_where_keys_are_not_numbers(numpy, monkeypatch):
    if not numpy:
        monkeypatch.setattr(sorting, "np", None)
    key = torch.tensor([2.0, 2.5, float("nan"), float("nan"), -float("nan")], dtype=torch.float64)
    for index in partner_ranges(key, 1.0):
        assert 0 <= index.min() and index.max() <= len(key)


def test_positions_of_true():
    for mask in ([], [False], [True, False, False, True]):
        expected = [i for i, x in enumerate(mask) if x]
        assert true_positions(torch.tensor(mask, dtype=torch.bool)).tolist() == expected


@pytest.mark.parametrize("options", [{}, {"reduction": "pairs"}, {"window": 4}], ids=str)
def test_the_loss_is_the_same_without_numpy(options, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-1, 4, (2, 9, 11), generator=generator)
    label_map = torch.randn(2, 9, 11, generator=generator, dtype=torch.float64).requires_grad_()
    with_numpy = permutation_invariant_loss(label_map, ids, **options)
    monkeypatch.setattr(sorting, "np", None)
    without = permutation_invariant_loss(label_map, ids, **options)
    torch.testing.assert_close(without, with_numpy, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, label_map)[0] for loss in (with_numpy, without)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
