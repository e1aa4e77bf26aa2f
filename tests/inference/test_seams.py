import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.seams import Found, merge_tiles, tile_starts

SIZE, TILE, OVERLAP = (96, 120), (40, 40), 16


@given(length=st.integers(1, 500), tile=st.integers(2, 60), share=st.floats(0, 0.5))
def test_tiles_cover_the_image_and_overlap(length, tile, share):
    overlap = int(tile * share)
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == max(0, length - tile)
    assert all(after - before <= tile - overlap for before, after in zip(starts, starts[1:], strict=False))
    assert len(starts) <= max(1, -(-(length - overlap) // (tile - overlap)))


def detections(masks, scores, classes):
    return Found(CroppedMasks.from_masks(masks), scores, classes)


def seen_in_tiles(masks, starts, scores, classes, noise=0, seed=0):
    """What a network finds that draws every object right inside each tile, up to `noise` of shift."""
    rng = np.random.default_rng(seed)
    found = []
    for y in starts[0]:
        for x in starts[1]:
            window = np.zeros(SIZE, dtype=bool)
            window[y : y + TILE[0], x : x + TILE[1]] = True
            shifted = [np.roll(mask, rng.integers(-noise, noise + 1, 2), (0, 1)) & window for mask in masks]
            visible = [k for k, mask in enumerate(shifted) if mask.any()]
            own = np.array([shifted[k] for k in visible], dtype=bool).reshape(-1, *SIZE)
            found.append(detections(own, scores[visible], classes[visible]))
    return found


def merge(masks, scores=None, classes=None, **options):
    starts = tile_starts(SIZE[0], TILE[0], OVERLAP), tile_starts(SIZE[1], TILE[1], OVERLAP)
    scores = np.linspace(0.9, 0.5, len(masks)) if scores is None else scores
    classes = np.zeros(len(masks), dtype=np.int64) if classes is None else classes
    return merge_tiles(starts, TILE, seen_in_tiles(masks, starts, scores, classes, **options))


def discs(count, radius, seed=0):
    rng, free = np.random.default_rng(seed), np.ones(SIZE, dtype=bool)
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = []
    while len(masks) < count:
        mask = (ys - rng.uniform(0, SIZE[0])) ** 2 + (xs - rng.uniform(0, SIZE[1])) ** 2 <= radius**2
        if mask.sum() > 3 * radius**2 and (mask <= free).all() and not (mask[[0, -1]].any() or mask[:, [0, -1]].any()):
            masks.append(mask)
            free &= ~mask
    return np.array(masks)


@pytest.mark.parametrize("seed", range(3))
def test_objects_smaller_than_the_overlap_come_out_once_and_whole(seed):
    masks = discs(40, 5, seed)
    merged = merge(masks, classes=np.arange(40) % 3)
    np.testing.assert_array_equal(merged.masks.numpy(), masks)
    np.testing.assert_array_equal(merged.classes, np.arange(40) % 3)
    np.testing.assert_allclose(merged.scores, np.linspace(0.9, 0.5, 40))


def test_objects_larger_than_a_tile_are_joined():
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 10:80, 5:110] = True  # over many tiles
    masks[0, 30:60, 30:80] = False  # with a hole
    masks[1, 40:50, 40:70] = True
    masks[2, 85:95, :] = True
    merged = merge(masks, classes=np.array([1, 0, 0]))
    np.testing.assert_array_equal(merged.masks.numpy(), masks)
    assert merged.classes.tolist() == [1, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_masks_that_differ_between_tiles_are_still_one_object(seed):
    masks = discs(30, 6, seed)
    merged = merge(masks, noise=1, seed=seed)
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks] for a in merged.masks])
    assert len(merged.scores) == len(masks)
    assert (iou.max(axis=0) > 0.6).all()


def test_classes_are_kept_apart_and_what_only_the_worse_tile_sees_is_kept_if_whole():
    starts = [0], [0, 24, 48, 80]
    mask = np.zeros((1, *SIZE), dtype=bool)
    mask[0, 5:10, 34:38] = True  # in the first two tiles, owned by the second
    found = [detections(mask, np.ones(1), np.zeros(1, int))]
    found += [detections(mask[:0], np.ones(0), np.zeros(0, int))] * 3
    assert len(merge_tiles(starts, TILE, found)) == 1
    other_class = detections(mask, np.ones(1), np.ones(1, int))
    assert merge_tiles(starts, TILE, [found[0], other_class, *found[2:]]).classes.tolist() == [1]
    mask[0, 5:10, 36:40] = True  # cut by the first tile's border
    found[0] = detections(mask, np.ones(1), np.zeros(1, int))
    assert len(merge_tiles(starts, TILE, found)) == 0


def test_nothing_found_is_nothing():
    assert len(merge(np.zeros((0, *SIZE), dtype=bool))) == 0
