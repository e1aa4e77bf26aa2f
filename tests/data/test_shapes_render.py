import numpy as np
import pytest

from dvis_d2.data.shapes_render import (
    CLASS_NAMES,
    Appearance,
    Texture,
    place,
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


def drawn_thing(class_id, center, size):
    texture = Texture("plain", np.zeros((2, 3)), 5.0, 0.0, 0.0)
    return place(Appearance(class_id, 31.0, 0.7, texture), center, size)


@pytest.mark.parametrize("class_id", range(len(CLASS_NAMES)))
def test_the_window_covers_the_whole_object(class_id):
    (_, _, _, distance), area = drawn_thing(class_id, (55.4, 43.2), (100, 120))
    border = np.concatenate([distance[0], distance[-1], distance[:, 0], distance[:, -1]])
    assert border.min() > 0.5  # not even anti-aliasing is cut off
    assert area == (distance < 0).sum() > 0


def test_calm_backgrounds_are_gradients():
    rng = np.random.default_rng(0)
    assert {sample_background(rng, texture=False, side=128).kind for _ in range(20)} == {"gradient"}


@pytest.mark.parametrize("center", [(0, 0), (29, 39), (12.3, 39), (0, 17.8), (15, 20)])
def test_what_leaves_the_picture_is_cut_off(center):
    """The same as in the middle of a large picture, at the same place."""
    (_, _, window, distance), area = drawn_thing(4, center, (40, 30))
    (_, _, far_window, whole), far_area = drawn_thing(4, (center[0] + 100, center[1] + 100), (240, 230))
    picture = np.full((240, 230), np.inf)
    picture[far_window] = whole
    picture = picture[100:140, 100:130]
    assert np.allclose(picture[window], distance, atol=1e-4) and area == far_area
    picture[window] = np.inf
    assert np.isinf(picture).all()
