import numpy as np
import pytest
from PIL import Image

from dvis_d2.data.image_io import oriented_size, read_image

COLOR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def test_color_and_its_order(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOR))
    assert np.array_equal(read_image(path, "RGB"), COLOR)
    assert np.array_equal(read_image(path, "BGR"), COLOR[..., ::-1])


def test_gray_becomes_color(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOR[..., 0]))
    assert np.array_equal(read_image(path, "BGR"), np.repeat(COLOR[..., :1], 3, axis=2))
    assert read_image(path, "L").shape == (6, 9, 1)


def test_alpha_is_dropped(tmp_path):
    alpha = np.zeros((6, 9, 1), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(np.concatenate([COLOR, alpha], axis=2)))
    assert np.array_equal(read_image(path, "RGB"), COLOR)


def test_palette_gives_the_colors_not_the_indices(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    path = save(tmp_path, palette)
    assert read_image(path, "RGB").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_black_and_white(tmp_path):
    path = save(tmp_path, Image.fromarray(np.array([[True, False]])))
    assert read_image(path, "RGB")[..., 0].tolist() == [[255, 0]]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    path = save(tmp_path, Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16)))
    assert read_image(path, "BGR")[..., 2].tolist() == [[0, 1, 100, 255]]
    assert read_image(path, "BGR").dtype == np.uint8
    assert read_image(path, "L").shape == (1, 4, 1)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.5, np.nan]], dtype=np.float32), "floating-point"),
        (np.array([[0, 70000]], dtype=np.int32), "32-bit"),
        (np.array([[0, -1]], dtype=np.int32), "32-bit"),
    ],
)
def test_pixels_without_a_range_are_refused(tmp_path, pixels, message):
    path = save(tmp_path, Image.fromarray(pixels), "a.tif")
    with pytest.raises(OSError, match=message):
        read_image(path, "RGB")


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(COLOR)
    exif = image.getexif()
    exif[274] = 6
    path = save(tmp_path, image, "a.jpg", exif=exif, quality=95)
    assert read_image(path, "RGB").shape == (9, 6, 3)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.png does not exist.*image folder"):
        read_image(str(tmp_path / "no.png"), "RGB")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_file_is_named(tmp_path, suffix, keep):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(pixels), f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(OSError, match=rf"cannot read image .*a\.{suffix}"):
        read_image(path, "RGB")


def test_text_file_is_named(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(OSError, match=r"cannot read image .*a\.png"):
        read_image(str(tmp_path / "a.png"), "RGB")


def test_oriented_size_swaps_the_sides_as_exif_says(tmp_path):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert oriented_size(tmp_path / "a.jpg") == (20, 30)
