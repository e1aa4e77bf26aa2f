import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvis_d2.data.image_files import ImageError
from dvis_d2.data.pixels import NOISE_RANGE, fit_conversion

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def to_8_bits(pixels, normalize="auto"):
    return fit_conversion(pixels, normalize)(pixels)


@pytest.mark.parametrize(
    "stored",
    [EIGHT, EIGHT / 255, (EIGHT / 255).astype(np.float32), EIGHT.astype(np.float32), EIGHT.astype(np.int64)]
    + [EIGHT.astype(np.int16), EIGHT.astype(np.uint16) * 257],
    ids=lambda a: f"{a.dtype} {a.max():g}",
)
@pytest.mark.parametrize("normalize", ["auto", "none"])
def test_8_bits_stay_whatever_type_holds_them(stored, normalize):
    assert np.array_equal(to_8_bits(stored, normalize), EIGHT)


def test_booleans_are_black_and_white():
    for normalize in ("auto", "percentile", "none"):
        assert to_8_bits(np.array([[True, False]]), normalize).tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_values_are_stretched_between_two_percentiles(dtype):
    ramp = np.arange(1, 1002, dtype=dtype)[None]  # percentiles 0.1 and 99.9: 2 and 1000
    expected = np.rint((np.arange(1, 1002).clip(2, 1000) - 2) * 255 / 998)
    assert np.abs(to_8_bits(ramp) - expected).max() <= 1  # halves


def test_dark_data_of_16_bits_fill_the_range_and_hot_pixels_do_not_count():
    image = 100 + EIGHT.repeat(10, 0).repeat(10, 1).astype(np.uint16)  # flat squares: no noise
    image.flat[::2003] = 65535
    found = to_8_bits(image).astype(int)
    kept = image < 65535
    assert np.abs(found[kept] - EIGHT.repeat(10, 0).repeat(10, 1)[kept]).max() <= 3


def test_percentile_stretches_8_bits_as_well():
    dim = (EIGHT // 8).repeat(8, 0).repeat(8, 1)
    assert to_8_bits(dim).max() == 31
    assert to_8_bits(dim, "percentile").max() == 255


def test_noise_alone_is_not_blown_up_to_the_full_range():
    empty = np.rint(RNG.normal(300, 10, (200, 200))).astype(np.uint16)
    found = to_8_bits(empty)
    assert found.std() == pytest.approx(255 / NOISE_RANGE, rel=0.1)
    empty[50:53, 50:53] = 1000  # an object below the percentile is still white
    assert (to_8_bits(empty)[50:53, 50:53] == 255).all()


def test_texture_does_not_get_black():
    assert to_8_bits(RNG.integers(0, 4096, (50, 50), dtype=np.uint16)).max() >= 85


def test_one_object_without_noise_survives():
    image = np.zeros((100, 100), np.uint16)
    image[5, 5] = 40
    assert to_8_bits(image)[5, 5] == 255
    assert to_8_bits(image).sum() == 255


@pytest.mark.parametrize("value", [np.uint16(7), np.int32(-5), np.float32(0), np.float64(1e300), np.uint16(65535)])
def test_one_value_alone_is_no_error(value):
    assert set(to_8_bits(np.full((4, 5), value)).ravel().tolist()) <= {0, 255}


def test_colors_are_stretched_together_and_alpha_is_no_color():
    colors = np.zeros((10, 10, 4), np.uint16)
    colors[:5, :, 0], colors[..., 3] = 1000, 65535
    assert to_8_bits(colors).reshape(-1, 3).max(axis=0).tolist() == [255, 0, 0]


def test_a_single_color_that_alpha_draws_is_read_from_alpha():
    image = np.full((20, 30, 4), 255, np.uint8)
    image[..., 3] = EIGHT
    assert np.array_equal(to_8_bits(image), EIGHT)
    image[0, 0, 0] = 0  # two colors: alpha means transparency
    assert to_8_bits(image).shape == (20, 30, 3)


def test_none_knows_the_range_of_16_bits_and_of_floats_to_1():
    assert to_8_bits(np.array([[0, 300, 25700, 65535]], np.uint16), "none").tolist() == [[0, 1, 100, 255]]
    assert to_8_bits(np.array([[0.0, 0.501, 1.0]]), "none").tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("values", [[0, 70000], [-3, 200], [0.0, 300.5], [-0.1, 0.5]])
def test_none_refuses_other_ranges(values):
    with pytest.raises(ImageError, match=r"values from .* to .*INPUT\.NORMALIZE"):
        to_8_bits(np.array([values]), "none")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", ["auto", "percentile", "none"])
def test_pixels_that_are_not_finite_are_refused(value, normalize):
    image = np.zeros((2, 2), np.float32)
    image[1, 1] = value
    with pytest.raises(ImageError, match="NaN or infinite"):
        to_8_bits(image, normalize)
    with pytest.raises(ImageError, match="NaN or infinite"):  # where the sample has not seen them
        fit_conversion(np.zeros((2, 2), np.float32), normalize)(image)


@settings(max_examples=50)
@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_brighter_stays_brighter(image):
    try:
        found = to_8_bits(image)
    except ImageError:  # a range beyond that of the type
        assert image.dtype.kind == "f" and not np.isfinite(np.ptp(image))
        return
    order = image.ravel().argsort()
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
