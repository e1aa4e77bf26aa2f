import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.data.shapes import MIN_VISIBLE_PIXELS, draw_image, is_split


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(32, 150),
    width=st.integers(32, 150),
    texture=st.booleans(),
    bars=st.sampled_from([0.0, 1.0]),
)
def test_pictures_are_consistent(seed, height, width, texture, bars):
    rng = np.random.default_rng(seed)
    image, masks, classes, attributes = draw_image(rng, height=height, width=width, texture=texture, bars=bars)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert 1 <= len(masks) <= 8
    assert len(classes) == len(masks) == len(attributes["split_instances"])
    assert set(classes) <= set(range(5))
    assert np.sum(masks, axis=0).max() == 1  # visible parts do not overlap
    assert all(mask.shape == (height, width) and mask.sum() >= MIN_VISIBLE_PIXELS for mask in masks)
    assert attributes["split_instances"] == [is_split(mask) for mask in masks]
    assert not attributes["has_bar"] or any(attributes["split_instances"])


def test_same_seed_same_picture_and_other_seed_other_picture():
    first, masks, *_ = draw_image(np.random.default_rng(3))
    second, masks_again, *_ = draw_image(np.random.default_rng(3))
    other, *_ = draw_image(np.random.default_rng(4))
    assert np.array_equal(first, second)
    assert np.array_equal(masks, masks_again)
    assert not np.array_equal(first, other)


def test_mask_edges_follow_image_edges():
    """The object's mean color is found inside the mask, the background's outside of it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, masks, *_ = draw_image(rng, num_objects=(1, 1), bars=0, texture=False, min_visible=1.0)
        pixels = image.astype(float)
        mean_in, mean_out = pixels[masks[0]].mean(0), pixels[~masks[0]].mean(0)
        nearer_in = np.linalg.norm(pixels - mean_in, axis=2) < np.linalg.norm(pixels - mean_out, axis=2)
        union = (nearer_in | masks[0]).sum()
        assert (nearer_in & masks[0]).sum() / union > 0.6  # patterned fills cost some; a shift would cost most


def test_object_size_is_in_pixels_whatever_the_canvas():
    sizes = []
    for side in (128, 512):
        rng = np.random.default_rng(1)
        _, masks, *_ = draw_image(
            rng, height=side, width=side, num_objects=(4, 4), bars=0, object_size=(30, 30), min_visible=1.0
        )
        sizes += [np.ptp(np.nonzero(mask)[0]) + 1 for mask in masks]
    assert min(sizes) >= 20
    assert max(sizes) <= 31


def test_number_of_objects_is_exact_where_there_is_room():
    _, masks, *_ = draw_image(
        np.random.default_rng(0), height=512, width=512, num_objects=(40, 40), object_size=(20, 30)
    )
    assert len(masks) == 40


def test_frequencies_of_bars_and_copies():
    attributes = [draw_image(np.random.default_rng([5, i]))[3] for i in range(300)]
    assert np.mean([a["has_bar"] for a in attributes]) == pytest.approx(0.45, abs=0.1)
    assert np.mean([a["has_copies"] for a in attributes]) == pytest.approx(0.35, abs=0.1)


def test_copies_look_the_same():
    """Two copies, nothing hidden, no rotation between them: the same pixels up to where they stand."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        _, masks, classes, attributes = draw_image(
            rng, num_objects=(2, 2), copies=1.0, bars=0, min_visible=1.0, object_size=(24, 40)
        )
        if not attributes["has_copies"]:
            continue
        areas = [int(mask.sum()) for mask in masks]
        assert classes[0] == classes[1]
        assert areas[0] == pytest.approx(areas[1], rel=0.06)  # sub-pixel positions differ


def test_min_visible_limits_what_is_hidden():
    smallest = 0.75 * np.sqrt(3) * 15**2  # the triangle has the least area of all shapes of one diameter
    areas = []
    for seed in range(40):
        _, masks, *_ = draw_image(
            np.random.default_rng(seed), num_objects=(8, 8), bars=0, min_visible=0.9, object_size=(30, 30)
        )
        areas += [mask.sum() for mask in masks]
    assert min(areas) >= 0.88 * smallest  # 0.02 for the pixel grid


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([(0, 10)], False), ([(0, 10), (12, 20)], True), ([(0, 19), (20, 21)], False)],
)
def test_is_split(parts, expected):
    mask = np.zeros((10, 24), dtype=bool)
    for start, stop in parts:
        mask[:, start:stop] = True
    assert is_split(mask) is expected


def test_is_split_of_nothing():
    assert is_split(np.zeros((4, 4), dtype=bool)) is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 8}, "too small"),
        ({"num_objects": (0, 3)}, "num_objects"),
        ({"num_objects": (5, 3)}, "num_objects"),
        ({"object_size": (4, 30)}, "object_size"),
        ({"object_size": (500, 600)}, "does not fit"),
        ({"bars": 1.5}, "bars"),
        ({"min_visible": -0.1}, "min_visible"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        draw_image(np.random.default_rng(0), **options)
