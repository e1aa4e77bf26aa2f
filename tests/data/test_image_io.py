import logging

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from dvis_d2.data.image_io import ImageWindows, probe_image, read_image, to_image

COLOR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = np.repeat(COLOR[..., :1], 3, axis=2)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def test_color_and_its_order(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOR))
    assert np.array_equal(read_image(path, "RGB"), COLOR)
    assert np.array_equal(read_image(path), COLOR[..., ::-1])
    assert np.array_equal(read_image(path, "L")[..., 0], cv2.cvtColor(COLOR, cv2.COLOR_RGB2GRAY))


def test_gray_becomes_color(tmp_path):
    path = save(tmp_path, Image.fromarray(GRAY[..., 0]))
    assert np.array_equal(read_image(path, "BGR"), GRAY)
    assert np.array_equal(read_image(path, "L"), GRAY[..., :1])


def test_alpha_is_dropped(tmp_path):
    alpha = np.zeros((6, 9, 1), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(np.concatenate([COLOR, alpha], axis=2)))
    assert np.array_equal(read_image(path, "RGB"), COLOR)
    assert probe_image(path) == (9, 6, (9, 6), 1, "uint8", 4, 1, "PNG")


def test_palette_gives_the_colors_not_the_indices(tmp_path):
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    path = save(tmp_path, palette)
    assert read_image(path, "RGB").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_sixteen_bits_are_never_clipped(tmp_path):
    path = save(tmp_path, Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16)))
    assert read_image(path, normalize="none")[..., 2].tolist() == [[0, 1, 100, 255]]
    path = save(tmp_path, Image.fromarray(np.arange(0, 4001, 10, dtype=np.uint16)[None]))
    assert read_image(path)[0, [0, 100, 400], 0] == pytest.approx([0, 64, 255], abs=1)


@pytest.mark.parametrize(
    ("pixels", "normalize", "message"),
    [
        (np.array([[0.5, np.nan]], dtype=np.float32), "auto", "NaN"),
        (np.array([[0, 70000]], dtype=np.int32), "none", "int32 values from 0 to 70000"),
    ],
)
def test_pixels_of_no_use_are_a_value_error_that_names_the_file(tmp_path, pixels, normalize, message):
    path = save(tmp_path, Image.fromarray(pixels), "a.tif")
    with pytest.raises(ValueError, match=rf"image .*a\.tif has .*{message}"):
        read_image(path, normalize=normalize)
    with pytest.raises(ValueError, match=rf"the image, {pixels.dtype} \(1, 2\), has .*{message}"):
        to_image(pixels, normalize=normalize)


def test_complex_values_are_no_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((9, 9), np.complex64))
    with pytest.raises(ValueError, match="a.tif has complex64 values"):
        read_image(tmp_path / "a.tif")


def test_missing_file_is_named(tmp_path):
    for read in (read_image, probe_image, ImageWindows):
        with pytest.raises(FileNotFoundError, match=r"no\.png does not exist.*image folder"):
            read(tmp_path / "no.png")


def test_a_stack_is_read_by_pages_and_warned_of_once(tmp_path, caplog):
    pages = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (10, 20, 30)]
    for suffix in ("tif", "gif", "webp", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        path = save(tmp_path, pages[0], f"a.{suffix}", save_all=True, append_images=pages[1:], **options)
        assert probe_image(path).pages == 3
        with caplog.at_level(logging.WARNING):
            assert [read_image(path, page=i)[0, 0, 0] for i in (0, 1, 2, 1)] == [10, 20, 30, 20]
            assert not caplog.messages or suffix != "tif"
            assert read_image(path)[0, 0, 0] == read_image(path)[0, 0, 0] == 10
        for page in (3, -1):
            with pytest.raises(ValueError, match=rf"a\.{suffix} has no page {page}: its pages are 0 to 2"):
                read_image(path, page=page)
    assert len([m for m in caplog.messages if "has 3 pages" in m]) == 1


def test_options_that_do_not_exist(tmp_path):
    path = save(tmp_path, Image.fromarray(COLOR))
    for read, what in ((read_image, path), (to_image, COLOR)):
        with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'HSV'"):
            read(what, "HSV")
        with pytest.raises(ValueError, match=r"INPUT\.NORMALIZE is 'on'"):
            read(what, normalize="on")


BGRA = np.dstack([COLOR, np.arange(54, dtype=np.uint8).reshape(6, 9)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOR, COLOR),
        (BGRA, COLOR),
        (COLOR[..., 0], GRAY),
        (COLOR[..., :1], GRAY),
        (COLOR[::-1, ::-1], COLOR[::-1, ::-1]),
        (np.asfortranarray(COLOR), COLOR),
        (COLOR / 255, COLOR),
        (COLOR.astype(np.float32), COLOR),
        (COLOR.astype(np.uint16) * 257, COLOR),
        (COLOR.astype(int), COLOR),
        (GRAY[..., 0].astype(">u2") * 257, GRAY),
        (torch.from_numpy(COLOR), COLOR),
        (torch.from_numpy(COLOR).permute(2, 0, 1), COLOR),
        (torch.from_numpy(COLOR[..., 0])[None], GRAY),
        (torch.from_numpy(COLOR).to(torch.bfloat16).requires_grad_(), COLOR),
        (Image.fromarray(COLOR), COLOR[..., ::-1]),
        (Image.fromarray(COLOR).convert("RGBA"), COLOR[..., ::-1]),
        (Image.fromarray(GRAY[..., 0]), GRAY),
    ],
    ids=lambda a: f"{type(a).__name__} {getattr(a, 'dtype', '')} {getattr(a, 'shape', '')}",
)
def test_images_in_memory(given, expected):
    found = to_image(given)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_file_gives_the_same_by_its_name_and_opened_by_pillow(tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path, Image.fromarray(COLOR), f"a.{suffix}", exif=exif)
    with Image.open(path) as image:
        assert np.array_equal(to_image(image), to_image(path))
    assert to_image(path).shape == (9, 6, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[0, 1]], TypeError, "an image is a list; expected"),
        (None, TypeError, "an image is a NoneType; expected"),
        (COLOR.astype(complex), TypeError, r"complex128 \(6, 9, 3\).*expected"),
        (COLOR.astype(str), TypeError, r"<U\d+ \(6, 9, 3\).*expected"),
        (COLOR[None], ValueError, r"uint8 \(1, 6, 9, 3\).*expected"),
        (COLOR.transpose(2, 0, 1), ValueError, r"uint8 \(3, 6, 9\).*expected .*\(H, W\)"),
        (COLOR[..., :2], ValueError, r"uint8 \(6, 9, 2\).*expected"),
        (COLOR[:0], ValueError, r"uint8 \(0, 9, 3\).*expected"),
        (COLOR[0, 0], ValueError, r"uint8 \(3,\).*expected"),
        (np.full((2, 3), np.inf), ValueError, r"float64 \(2, 3\).*infinite"),
    ],
)
def test_what_is_no_image_is_named_with_type_and_shape(given, error, message):
    with pytest.raises(error, match=message):
        to_image(given)


def test_arrays_are_not_changed():
    image = COLOR.astype(np.float32) * 3
    before = image.copy()
    to_image(image)
    assert np.array_equal(image, before)
