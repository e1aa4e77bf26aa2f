import numpy as np
import pytest

from dvis_d2.modeling.superpixels import find_superpixels, join_superpixels


def random_case(seed):
    """Labels, foreground and the levels of two bandwidths on a small map."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (7, 9)).astype(np.float32) + rng.uniform(0, 0.3, (7, 9)).astype(np.float32)
    levels = np.stack([labels.astype(int) // 2, labels.astype(int)])
    foreground = labels > 0.5
    return labels, foreground, np.where(foreground, levels, -1)


def flood_fill(foreground, linked):
    """int (h, w): components of 4-neighbors for which linked(cell, cell), numbered from 0; -1 is background."""
    numbers, count = np.full(foreground.shape, -1), 0
    for start in map(tuple, np.argwhere(foreground)):
        if numbers[start] >= 0:
            continue
        pending, numbers[start] = [start], count
        while pending:
            y, x = cell = pending.pop()
            for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= other[0] < foreground.shape[0] and 0 <= other[1] < foreground.shape[1]
                if inside and foreground[other] and numbers[other] < 0 and linked(cell, other):
                    numbers[other] = count
                    pending.append(other)
        count += 1
    return numbers


def same_partition(a, b):
    """Whether two numberings put the same cells together."""
    return len(set(zip(a.ravel(), b.ravel(), strict=True))) == len(set(a.ravel())) == len(set(b.ravel()))


@pytest.mark.parametrize("seed", range(5))
def test_superpixels_and_what_joins_them_are_those_of_a_flood_fill(seed):
    labels, foreground, levels = random_case(seed)
    thresholds = [0.2, 1.1]
    found = find_superpixels(labels, foreground, levels, min(thresholds))

    def owners(number):
        spread = np.full(labels.size, -1)
        spread[found.cells] = number[found.owner]
        return spread.reshape(labels.shape)

    def close(threshold):
        return lambda a, b: abs(labels[a] - labels[b]) < threshold

    def together(level):
        return lambda a, b: level[a] == level[b]

    def all_of(a, b):
        return close(min(thresholds))(a, b) and all(level[a] == level[b] for level in levels)

    assert same_partition(owners(np.arange(len(found.area))), flood_fill(foreground, all_of))
    parts, links = join_superpixels(found, labels, thresholds)
    for part, level in zip(parts, levels, strict=True):
        assert same_partition(owners(part), flood_fill(foreground, together(level)))
    for link, threshold in zip(links, thresholds, strict=True):
        assert same_partition(owners(link), flood_fill(foreground, close(threshold)))


def test_sums_and_borders_by_hand():
    labels = np.array([[2.0, 2.0, 0.0], [5.0, 2.0, 0.0]], dtype=np.float32)
    foreground = labels > 1
    found = find_superpixels(labels, foreground, np.where(foreground, labels.astype(int), -1)[None], 0.5)
    two, five = np.argsort(found.total / found.area)
    assert found.area[[two, five]].tolist() == [3, 1]
    assert found.total[[two, five]].tolist() == [6, 5]
    assert found.squares[[two, five]].tolist() == [12, 25]
    assert found.rows[two] == 1 and found.columns[two] == 2 and found.radii[two] == 0 + 1 + 2
    straight = {frozenset((p, q)) for p, q in zip(found.p[: found.straight], found.q[: found.straight], strict=True)}
    assert straight == {frozenset(x) for x in ((0, 3), (3, 4), (1, 2), (4, 5))}
    diagonal = {frozenset((p, q)) for p, q in zip(found.p[found.straight :], found.q[found.straight :], strict=True)}
    assert diagonal == {frozenset(x) for x in ((1, 3), (1, 5), (2, 4))}
