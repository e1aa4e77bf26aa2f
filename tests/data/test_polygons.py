import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvis_d2.data.annotations import to_mask
from dvis_d2.data.polygons import FAR, clip_polygon, plain_polygons, polygons_to_rle

HEIGHT, WIDTH = 20, 30


def draw(polygons):
    return to_mask(polygons, (HEIGHT, WIDTH), "x")


@given(st.lists(st.floats(-50, 50), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0))
def test_polygons_near_the_image_are_drawn_as_by_pycocotools(polygon):
    expected = mask_util.decode(mask_util.merge(mask_util.frPyObjects([polygon], HEIGHT, WIDTH)))
    assert np.array_equal(draw([polygon]), expected)


@pytest.mark.parametrize("far", [2e4, 1e8, 1e15, 1e300])
def test_far_polygons_are_cut_off(far):
    assert draw([[-far, -far, far, -far, far, far, -far, far]]).all()
    left = draw([[-far, -far, 10, -far, 10, far, -far, far]])
    assert left[:, :10].all() and not left[:, 10:].any()
    assert not draw([[far, far, far + far / 2, far, far, far + far / 2]]).any()
    under_the_diagonal = draw([[-far, -far, far, far, -far, far]])
    rows, columns = np.indices((HEIGHT, WIDTH))
    clear = abs(rows - columns) > 1
    assert np.array_equal(under_the_diagonal[clear], (rows > columns)[clear])


def test_a_concave_polygon_is_cut_on_both_sides():
    far = 1e6
    comb = [-far, 2, far, 2, far, 4, 10, 4, 10, 12, far, 12, far, 15, -far, 15]  # open to the right in rows 4 to 12
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[2:15] = True
    expected[4:12, 10:] = False
    assert np.array_equal(draw([comb]), expected)


def test_clipping_keeps_near_points_and_bounds_the_rest():
    near = np.array([[0.0, 0], [9, 0], [0, 9]])
    assert clip_polygon(near, HEIGHT, WIDTH) is near
    clipped = clip_polygon(np.array([[0.0, 0], [1e9, 3], [0, 5]]), HEIGHT, WIDTH)
    assert clipped.min() >= -FAR and clipped[:, 0].max() == WIDTH + FAR
    assert not len(clip_polygon(near + 1e9, HEIGHT, WIDTH))


@pytest.mark.parametrize("polygon", [[0.0, 0, 1, 1, 2, 0] * 200_000, [0, 0, 9000, 9000, 0, 9000] * 1000])
def test_endless_outlines_are_refused(polygon):
    with pytest.raises(ValueError, match="image a, annotation 3: a polygon (of|whose outline)"):
        polygons_to_rle([np.reshape(np.array(polygon, dtype=float), (-1, 2))], HEIGHT, WIDTH, "image a, annotation 3")
    with pytest.raises(ValueError, match="simplify"):
        plain_polygons([polygon], HEIGHT, WIDTH, "x")


def test_plain_polygons_are_those_that_pycocotools_draws():
    square = [3, 2, 9, 2, 9, 6, 3, 6]
    polygons = [square, [0, 0, 9, 9, 0, 9]]
    assert plain_polygons(polygons, HEIGHT, WIDTH, "x") is polygons
    assert plain_polygons([[1, 1, 5, 5], square], HEIGHT, WIDTH, "x") == [square]
    (only,) = plain_polygons([[1e9, 1e9, 2e9, 1e9, 1e9, 2e9]], HEIGHT, WIDTH, "x")
    assert mask_util.area(mask_util.frPyObjects([only], HEIGHT, WIDTH)) == 0
