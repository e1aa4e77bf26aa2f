"""The hierarchy of regions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.modeling.hierarchy import _relief, find_hierarchy

from .drawn_maps import draw, noisy_map


def hierarchy(labels, step_threshold=0.2, threshold=1.0):
    labels = np.asarray(labels, dtype=np.float32)
    return find_hierarchy(labels, labels > threshold, step_threshold)


def region_sets(found):
    return [frozenset(found.cells[a:b].tolist()) for a, b in zip(found.start, found.stop, strict=True)]


def discs(*circles, size=(40, 60)):
    y, x = np.mgrid[: size[0], : size[1]]
    return sum(((y - row) ** 2 + (x - column) ** 2 <= radius**2).astype(np.float32) for row, column, radius in circles)


def test_two_labels_a_margin_apart_merge_last_of_all():
    found = hierarchy(draw((2, 2, 8, 2, 7), (3.5, 2, 8, 7, 12)))
    whole = int(np.argmax(found.stop - found.start))
    left, right = np.flatnonzero(found.parent == whole)
    assert sorted(found.stop[[left, right]] - found.start[[left, right]]) == [30, 30]
    assert found.height[whole] >= 1.5  # the difference of their means
    assert found.stability[[left, right]].min() > 0.9 and found.stability[whole] == 0


def test_discs_of_one_label_come_apart_at_their_neck():
    found = hierarchy(3.0 * np.minimum(1, discs((20, 15, 9), (20, 30, 9))))
    (whole,) = np.flatnonzero(found.parent < 0)
    halves = np.flatnonzero(found.parent == whole)
    areas = found.stop[halves] - found.start[halves]
    assert found.stability[halves].min() > 0.2  # the neck is 10 cells wide, the discs 19
    assert abs(areas[0] - areas[1]) <= 12
    columns = [found.cells[found.start[half] : found.stop[half]] % 60 for half in halves]
    assert sorted(int(np.median(column)) for column in columns) == [15, 30]


def test_a_convex_object_is_one_hill():
    found = hierarchy(2.0 * np.minimum(1, discs((20, 30, 12))))
    assert (found.stability > 0.1).sum() == 1


def test_dissimilarity_by_hand():
    labels = np.zeros((3, 9), dtype=np.float32)
    labels[1, :4], labels[1, 4:] = 2.0, 2.5  # a line: distances 1, smoothed alike but at the cut and the ends
    found = hierarchy(labels, step_threshold=9.0)
    (whole,) = np.flatnonzero(found.parent < 0)
    assert found.stop[whole] - found.start[whole] == 9
    assert hierarchy(labels[:, :4], step_threshold=9.0).height.max() < 0.2


def brute_force(labels, foreground, step_threshold):
    """The hills by walking from every cell, as sets of cells."""
    relief = _relief(labels, foreground, step_threshold)
    hills = {}
    for start in map(tuple, np.argwhere(relief > 0)):
        cell = start
        while True:
            y, x = cell
            steps = [cell, (y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)]
            best = min(steps, key=lambda c: (-relief[c], c))
            if best == cell:
                break
            cell = best
        hills.setdefault(cell, set()).add((start[0] - 1) * labels.shape[1] + start[1] - 1)
    return {frozenset(hill) for hill in hills.values()}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 14), st.sampled_from([0.0, 0.05, 0.5]))
def test_any_map_has_a_tree_of_connected_regions(seed, height, width, noise):
    labels = noisy_map(seed, height, width, noise, side=4)
    foreground = labels > 0.5
    found = find_hierarchy(labels, foreground, 0.3)
    sets = region_sets(found)
    assert sorted(found.cells.tolist()) == np.flatnonzero(foreground).tolist()
    parts = [np.flatnonzero(found.parent == region) for region in range(len(sets))]
    assert {sets[region] for region in range(len(sets)) if not len(parts[region])} == brute_force(
        labels, foreground, 0.3
    )
    for region, of in enumerate(parts):
        assert len(of) in (0, 2)
        if len(of):
            assert sets[of[0]] | sets[of[1]] == sets[region] and not sets[of[0]] & sets[of[1]]
            assert found.height[region] >= found.height[of].max()
    assert ((found.stability >= 0) & (found.stability <= 1)).all()
    assert (found.height >= 0).all()


def test_nothing_in_the_foreground():
    found = hierarchy(np.zeros((4, 5)))
    assert len(found.cells) == len(found.start) == len(found.parent) == 0


@pytest.mark.parametrize("turn", [np.transpose, np.fliplr, np.flipud])
def test_regions_do_not_depend_on_the_direction(turn):
    labels = 3.0 * np.minimum(1, discs((18, 15, 9), (22, 29.5, 7), (19, 45.3, 6)))
    areas = []
    for image in (labels, turn(labels)):
        found = hierarchy(image)
        areas.append(sorted((found.stop - found.start)[found.stability > 0.1]))
    assert len(areas[0]) == len(areas[1])
    assert np.allclose(*areas, atol=8)  # level ground goes to one side or the other
