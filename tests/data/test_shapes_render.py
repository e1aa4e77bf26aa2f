import numpy as np
import pytest

from dvis_d2.data.shapes_render import (
    CLASS_NAMES,
    Appearance,
    Texture,
    clip_window,
    object_window,
    sample_background,
    signed_distance,
)


def area_of(name, radius, step=0.05):
    axis = np.arange(-radius - 1, radius + 1, step)
    x, y = np.meshgrid(axis, axis)
    return (signed_distance(CLASS_NAMES.index(name), x, y, radius) < 0).sum() * step**2


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disc", np.pi * 100),
        ("square", 200.0),
        ("triangle", 0.75 * np.sqrt(3) * 100),
        ("ring", np.pi * 75),
        # ten triangles between center, point (radius 10) and notch (radius 5): 10 * 1/2 * 10 * 5 * sin(36 deg)
        ("star", 250 * np.sin(np.pi / 5)),
    ],
)
def test_signed_distance_encloses_the_area_of_the_shape(name, area):
    assert area_of(name, 10.0) == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("class_id", range(len(CLASS_NAMES)))
def test_shapes_stay_in_their_circumscribed_circle_and_touch_it(class_id):
    axis = np.arange(-12, 12, 0.05)
    x, y = np.meshgrid(axis, axis)
    inside = signed_distance(class_id, x, y, 10.0) < 0
    assert np.hypot(x, y)[inside].max() == pytest.approx(10.0, abs=0.1)


def test_object_window_covers_the_whole_object():
    texture = Texture("plain", np.zeros((2, 3)), 5.0, 0.0, 0.0)
    for class_id in range(len(CLASS_NAMES)):
        _, distance = object_window(Appearance(class_id, 31.0, 0.7, texture), (5.4, -3.2))
        border = np.concatenate([distance[0], distance[-1], distance[:, 0], distance[:, -1]])
        assert border.min() > 0.5  # not even anti-aliasing is cut off
        assert distance.min() < 0


def test_calm_backgrounds_are_gradients():
    rng = np.random.default_rng(0)
    assert {sample_background(rng, texture=False, side=128).kind for _ in range(20)} == {"gradient"}


@pytest.mark.parametrize("top, left", [(-3, 2), (4, 7), (-9, 0), (12, 30), (0, -2)])
def test_clipped_windows_show_the_same_pixels(top, left):
    """A window cut out of a padded picture, and its part that lies in the picture, at the same place."""
    picture = np.arange(10 * 12).reshape(10, 12)
    padded = np.pad(picture, 40, constant_values=-1)
    window = padded[40 + top : 46 + top, 40 + left : 45 + left]
    inside, local = clip_window((slice(top, top + 6), slice(left, left + 5)), 10, 12)
    assert np.array_equal(picture[inside], window[local])
    assert picture[inside].size == (window >= 0).sum()
