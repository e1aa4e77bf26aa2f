"""Files of every kind, written small: their pixels, their headers, what is wrong with them."""

import struct
import zlib

import cv2
import imagecodecs  # writes PNG of gray and alpha
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from dvis_d2.data import image_files
from dvis_d2.data.image_files import ImageError
from dvis_d2.data.image_io import ImageWindows, probe_image, read_image

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8)
SMOOTH = cv2.resize(COLOR[:3, :4], (34, 21), interpolation=cv2.INTER_CUBIC)  # survives JPEG, and has no noise
GRAY = SMOOTH[..., 0]
EXIF = 274


def oriented(orientation):
    exif = Image.Exif()
    exif[EXIF] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_applied_once_in_every_format(tmp_path, suffix, orientation):
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    stored = Image.fromarray(SMOOTH)
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=oriented(orientation), **options)
    stored.info["exif"] = oriented(orientation).tobytes()
    upright = np.asarray(ImageOps.exif_transpose(stored))
    found, info = read_image(path, "RGB"), probe_image(path)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= (12 if suffix == "jpg" else 0)
    assert (info.height, info.width) == upright.shape[:2]
    assert (info.stored_size, info.orientation) == ((34, 21), orientation)
    with ImageWindows(path, "RGB") as windows:
        assert windows.shape == upright.shape[:2]
        assert np.array_equal(windows.read(3, 20, 5, 19), found[3:20, 5:19])


def test_orientation_behind_a_png_s_pixels(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(COLOR).save(path)
    content, exif = path.read_bytes(), oriented(6).tobytes()[6:]
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert probe_image(path)[:2] == (21, 34)
    assert np.array_equal(read_image(path, "RGB"), np.rot90(COLOR, -1))


def test_an_orientation_that_does_not_exist_is_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COLOR, extratags=[(EXIF, "H", 1, 9, True)])
    assert np.array_equal(read_image(tmp_path / "a.tif", "RGB"), COLOR)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (400, 14000)])
def test_every_shape(tmp_path, suffix, shape):
    image = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}").shape == (*shape, 3)
    assert probe_image(tmp_path / f"a.{suffix}")[:2] == shape[::-1]


def test_16_bit_colors_of_png_keep_all_bits(tmp_path):
    image = SMOOTH.astype(np.uint16) * 3 + 1000  # 8 bits of it would be 3 to 6
    for pixels in (image, np.dstack([image, np.full_like(image[..., :1], 65535)])):
        cv2.imwrite(str(tmp_path / "a.png"), pixels)
        found = read_image(tmp_path / "a.png", "BGR").astype(int)
        assert np.abs(found - SMOOTH).max() <= 3
        assert probe_image(tmp_path / "a.png").dtype == "uint16"
    gray = np.dstack([image[..., 0], image[..., 0]])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(gray))
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - SMOOTH[..., :1]).max() <= 3
    content = (tmp_path / "a.png").read_bytes()
    for keep in (0.5, 0.9):
        (tmp_path / "a.png").write_bytes(content[: int(len(content) * keep)])
        for read in (read_image, probe_image):
            with pytest.raises(OSError, match=r"a\.png cannot be read"):
                read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("1", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("YCbCr", "tif")]
    + [("LAB", "tif"), ("P", "tif"), ("1", "tif"), ("RGBA", "tif"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "ppm")]
    + [("RGB", "jp2"), ("L", "webp"), ("RGBA", "webp")],
)
def test_modes_as_pillow_converts_them(tmp_path, mode, suffix):
    image = Image.fromarray(SMOOTH).convert(mode)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        expected = np.asarray(stored.convert("RGB"))
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}", "RGB"), expected)


LAYOUTS = [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True, "rowsperstrip": 8}]
LAYOUTS += [{"tile": (16, 16)}, {"tile": (16, 32), "compression": "zstd"}, {"bigtiff": True, "byteorder": ">"}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["gray", "deep gray", "color", "planes", "float", "white is 0"])
def test_windows_of_tiff_are_those_of_the_whole(tmp_path, layout, kind, orientation):
    image = {"deep gray": GRAY.astype(np.uint16) * 3, "float": (GRAY * 0.37).astype(np.float32)}.get(kind, GRAY)
    options = {"photometric": "miniswhite" if kind == "white is 0" else "minisblack"}
    if kind in ("color", "planes"):
        image, options = SMOOTH, {"photometric": "rgb"}
    if kind == "planes":
        image, options = np.moveaxis(SMOOTH, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **options, **layout, extratags=[(EXIF, "H", 1, orientation, True)])
    whole = read_image(path, "RGB")
    upright = np.rot90(SMOOTH, -1) if orientation == 6 else SMOOTH
    if kind in ("color", "planes"):
        assert np.array_equal(whole, upright)
    else:
        expected = (255 - upright if kind == "white is 0" else upright)[..., :1].astype(int)
        assert np.abs(whole - expected).max() <= 3  # stretched from 0.1 to 99.9 percent
    height, width = whole.shape[:2]
    with ImageWindows(path, "RGB") as windows:
        for _ in range(15):
            (y0, y1), (x0, x1) = (np.sort(RNG.choice(n + 1, 2, replace=False)) for n in (height, width))
            assert np.array_equal(windows.read(y0, y1, x0, x1), whole[y0:y1, x0:x1])
        for outside in ((0, height + 1, 0, 1), (0, 1, -1, 1), (2, 2, 0, 1)):
            with pytest.raises(ValueError, match="not inside"):
                windows.read(*outside)


def test_windows_of_jpeg_in_tiff(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", compression="jpeg", tile=(16, 16))
    whole = read_image(path, "RGB")
    assert np.abs(whole.astype(int) - SMOOTH).mean() < 8
    with ImageWindows(path, "RGB") as windows:
        assert np.array_equal(windows.read(5, 20, 10, 33), whole[5:20, 10:33])


def test_values_of_large_images_are_taken_from_some_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("dvis_d2.data.image_io.SAMPLE", 34 * 3)
    tifffile.imwrite(tmp_path / "a.tif", image := GRAY.astype(np.uint16) * 3, rowsperstrip=1)
    low, high = np.percentile(image[::7], (0.1, 99.9))
    expected = ((image - low) / (high - low) * 255).clip(0, 255)
    found = read_image(tmp_path / "a.tif")
    assert np.abs(found[..., 0] - expected).max() <= 0.5 + 1e-6
    with ImageWindows(tmp_path / "a.tif") as windows:
        assert np.array_equal(windows.read(2, 9, 3, 30), found[2:9, 3:30])


def test_pyramids_have_one_page_and_previews_none(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(COLOR, photometric="rgb", subifds=0)
        writer.write(COLOR[::2, ::2], photometric="rgb", subfiletype=1)
    assert probe_image(tmp_path / "a.tif").pages == 1
    tifffile.imwrite(tmp_path / "b.tif", COLOR, photometric="rgb", subfiletype=1)
    with pytest.raises(ImageError, match=r"b\.tif has a preview alone"):
        probe_image(tmp_path / "b.tif")


@pytest.mark.parametrize("samples", [2, 4, 5])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_other_numbers_of_channels_are_refused(tmp_path, samples, planarconfig):
    stack = RNG.integers(0, 256, (samples, 9, 11), dtype=np.uint8)
    stack = np.moveaxis(stack, 0, 2) if planarconfig == "contig" else stack
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", planarconfig=planarconfig)
    for read in (probe_image, read_image):
        with pytest.raises(ImageError, match=rf"a\.tif has {samples} channels .* choose"):
            read(tmp_path / "a.tif")


def test_gray_with_alpha_is_gray(tmp_path):
    pixels = np.dstack([GRAY, np.full_like(GRAY, 255)])
    options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 1], GRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty, 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\x93NUMPY\x01\x00", "save it as TIFF or PNG"),
        (b"PK\3\4rest", "unpack it"),
        (b"not a picture", "it is none of AVIF"),
        (b"II*\0\xff\xff\xff\xff", "it is cut off"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of AVIF"),
    ],
)
def test_files_that_are_no_images_say_what_they_are(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (probe_image, read_image):
        with pytest.raises(OSError, match=rf"image .*a\.jpg cannot be read .*{message}"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif", "lzw.tif"])
def test_cut_files_are_found_by_their_header(tmp_path, suffix, keep):
    path = tmp_path / f"a.{suffix}"
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **({"compression": "tiff_lzw"} if "lzw" in suffix else {}))
    assert probe_image(path)[:2] == (64, 64)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    for read in (read_image, probe_image):
        with pytest.raises(OSError, match=rf"image .*a\.{suffix} cannot be read .*: copy it again"):
            read(path)


def test_too_large_is_a_message_of_its_own(tmp_path, monkeypatch):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", COLOR, photometric="rgb")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 21 * 34 // 2 - 1)
        for read in (probe_image, read_image):
            with pytest.raises(ImageError, match=r"a\.png is too large .*cut it"):
                read(tmp_path / "a.png")
    monkeypatch.setattr("dvis_d2.data.image_io.MAX_PIXELS", 21 * 34 - 1)
    with pytest.raises(ImageError, match=r"a\.tif is too large to be held, 34 x 21 px: cut it"):
        read_image(tmp_path / "a.tif")
    with ImageWindows(tmp_path / "a.tif", "RGB") as windows:  # its purpose
        assert np.array_equal(windows.read(0, 21, 0, 34), COLOR)
    assert probe_image(tmp_path / "a.tif")[:2] == (34, 21)


def test_a_tiff_that_claims_a_huge_strip_or_side_is_refused_before_any_memory_is_taken(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", COLOR, photometric="rgb", compression="zlib")
    monkeypatch.setattr(image_files, "MAX_SEGMENT", 999)
    with pytest.raises(ImageError, match=r"a\.tif is too large, a strip"):
        probe_image(tmp_path / "a.tif")
    monkeypatch.setattr(image_files, "MAX_SIDE", 30)
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png is too large, 34 x 21"):
        probe_image(tmp_path / "a.png")
