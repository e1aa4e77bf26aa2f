"""The parts of the exact sums: partners by merging, tiles as grids, NumPy and torch alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling import exact_pairs
from dvis_d2.modeling.exact_pairs import _Entries, _segmentations, _Segments, _sort_pixels, _stable_argsort
from dvis_d2.modeling.losses import permutation_invariant_loss

integers = st.one_of(st.integers(-3, 3), st.integers(-(2**17), 2**17), st.integers(-(2**63), 2**63 - 1))


@settings(deadline=None)
@given(keys=st.lists(integers))
def test_stable_argsort_is_torchs(keys):
    keys = torch.tensor(keys, dtype=torch.int64)
    assert _stable_argsort(keys).equal(keys.argsort(stable=True))


@pytest.mark.parametrize("edge", [2**15 - 1, 2**15, 2**16 - 1, 2**16, 2**31, -(2**15), -(2**15) - 1])
def test_stable_argsort_at_the_edges_of_16_bits(edge):
    keys = torch.tensor([edge, 0, edge - 1, -1, edge, 1])
    assert _stable_argsort(keys).equal(keys.argsort(stable=True))


def segments_of(values):
    """One segment, not cut by a reach."""
    count = len(values)
    entries = _Entries.from_labels(torch.arange(count), torch.zeros(count, dtype=torch.int64), torch.tensor([count]))
    values = torch.as_tensor(values, dtype=torch.float64)
    return _Segments(entries, values, torch.ones_like(values), 1e9)


def brute_force_ranges(key, distance):
    first = [sum(other < x - distance for other in key) for x in key]
    return first, [sum(f <= j for f in first) for j in range(len(key))]


@settings(deadline=None)
@given(gaps=st.lists(st.sampled_from([0.0, 0.25, 0.5, 3.0])), distance=st.sampled_from([0.6, 1.1, 3.1]))
@pytest.mark.parametrize("numpy", [True, False])
def test_ranges_of_partners_equal_brute_force(numpy, gaps, distance):
    segments = segments_of(torch.tensor(gaps, dtype=torch.float64).cumsum(0))
    with pytest.MonkeyPatch.context() as patch:
        if not numpy:
            patch.setattr(exact_pairs, "np", None)
        first, last = segments._partners(distance)
    assert (first.tolist(), last.tolist()) == brute_force_ranges(segments.key.tolist(), distance)


@pytest.mark.parametrize("numpy", [True, False])
def test_ranges_stay_inside_where_keys_are_not_numbers(numpy, monkeypatch):
    if not numpy:
        monkeypatch.setattr(exact_pairs, "np", None)
    for index in segments_of([2.0, 2.5, float("nan"), float("nan"), -float("nan")])._partners(1.0):
        assert 0 <= index.min() and index.max() <= 5


@pytest.mark.parametrize("options", [{}, {"reduction": "pairs"}, {"window": 4}], ids=str)
def test_the_loss_is_the_same_without_numpy(options, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-1, 4, (2, 9, 11), generator=generator)
    label_map = torch.randn(2, 9, 11, generator=generator, dtype=torch.float64).requires_grad_()
    with_numpy = permutation_invariant_loss(label_map, ids, **options)
    monkeypatch.setattr(exact_pairs, "np", None)
    without = permutation_invariant_loss(label_map, ids, **options)
    torch.testing.assert_close(without, with_numpy, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, label_map)[0] for loss in (with_numpy, without)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def tile_starts(length, side):
    starts = [0]
    while starts[-1] + side < length:
        starts.append(starts[-1] + side // 2)
    return starts


def tiles_of(shape, side):
    """The pixels of every tile that is a segment, and the pixels' weights; every pixel is foreground."""
    ids = torch.ones(1, *shape, dtype=torch.int64)
    pixels = _sort_pixels(torch.zeros(1, *shape), ids, ids > 0, "pairs")
    found = []
    for every, _, weight in _segmentations(pixels, ids.shape[1:], side):  # noqa: B007
        bounds = every.bounds.tolist()
        found += [sorted(pixels.index[every.pixel[a:b]].tolist()) for a, b in zip(bounds, bounds[1:], strict=False)]
    return found, weight


@pytest.mark.parametrize(
    "shape, side", [((7, 9), 4), ((8, 8), 4), ((13, 3), 2), ((5, 40), 6), ((10, 11), 10), ((6, 6), 4)]
)
def test_the_grids_hold_every_pixel_of_every_tile_once(shape, side):
    height, width = shape
    found, weight = tiles_of(shape, side)
    expected = [
        [y * width + x for y in range(top, min(top + side, height)) for x in range(left, min(left + side, width))]
        for top in tile_starts(height, side)
        for left in tile_starts(width, side)
    ]
    assert sorted(found) == sorted(expected)
    copies = torch.tensor([p for tile in found for p in tile]).bincount()
    torch.testing.assert_close(weight, copies.double().rsqrt())


@pytest.mark.parametrize("side", [0, 40, 42])
def test_the_whole_map_needs_no_tiles(side):
    found, weight = tiles_of((30, 40), side)
    assert len(found) == 1 and (weight == 1).all()
