"""Image files, opened undecoded: TIFF by tifffile, PNG of 16-bit colors by OpenCV, others by Pillow."""

import functools
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # of an image that is decoded as a whole: Pillow's limit, 13,377 x 13,377
MAX_SIDE = 1_000_000
MAX_SEGMENT = 2**30  # bytes of one strip or tile
CACHE = 2**28  # bytes of strips and tiles that are kept decoded
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# without EPS, which would start a program, and those that have no magic number
FORMATS = "AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI SGI WEBP".split()
NO_IMAGES = {
    b"version https://git-lfs": "a pointer of git-lfs; `git lfs pull` fetches the image",
    b"<": "a web page or other XML; download the image again",
    b"\x93NUMPY": "a NumPy array; save it as TIFF or PNG",
    b"PK\3\4": "a ZIP archive; unpack it",
    b"%PDF": "a PDF; save its pages as PNG",
}
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
JPEG = (6, 7, 33007, 34892)  # TIFF's numbers
DTYPES = {"I": "int32", "F": "float32", **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), "uint16")}
COLORS = {"1": "L", **dict.fromkeys(("LA", "La", "PA", "RGBa"), "RGBA")}  # of Pillow's modes; others become RGB
# EXIF's orientations as transposition, then vertical, then horizontal flip
TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}

Reader = Callable[[int, int, int, int], np.ndarray]  # y0, y1, x0, x1 -> (h, w), or RGB or RGBA (h, w, 3 or 4)


class ImageError(ValueError):
    """An image that is sound and of no use: too large, with too many channels, or without the page asked for."""


class ImageInfo(NamedTuple):
    """What the header of an image file says."""

    width: int  # as read, upright
    height: int
    stored_size: tuple[int, int]  # (width, height)
    pages: int  # of a stack or animation
    dtype: str  # of the stored values: "uint8", "uint16", "float32", ...
    channels: int  # stored ones; 2 and 4 have alpha, 4 may be CMYK; 3 for a palette
    orientation: int  # EXIF's, 1 to 8; 1 is upright
    format: str  # Pillow's name: "JPEG", "PNG", "TIFF", ...


class Source(NamedTuple):
    """One page of an open file."""

    info: ImageInfo
    read: Reader  # upright pixels
    close: Callable[[], None]


def open_image(path: str, page: int) -> Source:
    """Any exception where the file cannot be read; ImageError where its pixels cannot be used."""
    with open(path, "rb") as file:
        head = file.read(64)
        file.seek(max(0, os.path.getsize(path) - 65536))
        tail = file.read()
    if not head:
        raise OSError("it is empty, 0 bytes")
    return _open_tiff(path, page, tail) if head.startswith(TIFF) else _open_pillow(path, page, head, tail)


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """(h, w), or RGB or RGBA (h, w, 3 or 4), of any of Pillow's modes."""
    if image.mode not in DTYPES and image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert(COLORS.get(image.mode, "RGB"))
    return np.asarray(image)


def _source(info: ImageInfo, read: Reader, close: Callable[[], None]) -> Source:
    """With pixels turned upright, of an `info` and `read` of stored ones."""
    transpose, flip_y, flip_x = TURNS.get(info.orientation, (0, 0, 0))
    width, height = info.stored_size[::-1] if transpose else info.stored_size
    if max(width, height) > MAX_SIDE or not min(width, height):
        raise ImageError(f"is too large, {width} x {height} px: cut it into parts")

    def upright(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        y0, y1 = (height - y1, height - y0) if flip_y else (y0, y1)
        x0, x1 = (width - x1, width - x0) if flip_x else (x0, x1)
        window = read(x0, x1, y0, y1).swapaxes(0, 1) if transpose else read(y0, y1, x0, x1)
        return window[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    return Source(info._replace(width=width, height=height), upright, close)


def _check_page(page: int, pages: int) -> None:
    if not pages:
        raise OSError("it is cut off or broken")
    if not 0 <= page < pages:
        raise ImageError(f"has no page {page}: its pages are 0 to {pages - 1}")


def _open_pillow(path: str, page: int, head: bytes, tail: bytes) -> Source:
    for start, what in NO_IMAGES.items():
        if head.lstrip().startswith(start):
            raise OSError(f"it is {what}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of MAX_PIXELS on
            image: Any = Image.open(path, formats=FORMATS if head else ["TIFF"])
    except Image.DecompressionBombError as error:
        raise ImageError(f"is too large ({error}): cut it into parts or save it as TIFF with tiles") from error
    except UnidentifiedImageError as error:
        raise OSError(f"it is none of {', '.join(FORMATS)}, TIFF") from error
    kind = image.format
    pages = 1 if kind == "MPO" else getattr(image, "n_frames", 1)  # phones add other views of the picture
    _check_page(page, pages)
    image.seek(page)
    # for a PNG's orientation Pillow would decode it, even if there is none; a TIFF it turns itself
    plain = kind == "TIFF" or (kind == "PNG" and "exif" not in image.info and b"eXIf" not in tail)
    orientation = 1 if plain else image.getexif().get(ExifTags.Base.Orientation, 1)
    deep = kind == "PNG" and head[24] == 16 and len(image.getbands()) > 1  # Pillow would drop 8 bits

    @functools.cache
    def decoded() -> np.ndarray:
        image.load()  # raises if the file is damaged, where OpenCV may guess
        pixels: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return decoded()[y0:y1, x0:x1] if deep else pillow_pixels(image.crop((x0, y0, x1, y1)))

    if not tail.rstrip(b"\0\n").endswith(ENDS.get(kind, b"no known end")):
        read(0, 1, 0, 1)  # raises if the file is cut off
    channels = 3 if image.mode == "P" else len(image.getbands())
    dtype = "uint16" if deep else DTYPES.get(image.mode, "uint8")
    info = ImageInfo(0, 0, image.size, pages, dtype, channels, orientation, kind)
    return _source(info, read, image.close)


def _open_tiff(path: str, number: int, tail: bytes) -> Source:
    file: Any = tifffile.TiffFile(path)
    pages = len(file.pages)
    if pages > 1 and (file.is_svs or file.pages[1].is_reduced):  # the same picture in other sizes
        pages = 1
    _check_page(number, pages)
    page = file.pages[number]
    if page.is_reduced:
        raise ImageError("has a preview alone, as the raw files of cameras: export it as TIFF or PNG")
    kind, samples = page.photometric.name, page.samplesperpixel
    if kind not in ("MINISBLACK", "MINISWHITE", "RGB") and page.compression not in JPEG:
        return _open_pillow(path, number, b"", tail)
    alpha = samples == 2 and page.extrasamples[:1] in ((1,), (2,))
    if not (samples in (1, 3) or alpha or (samples == 4 and kind == "RGB")) or page.imagedepth > 1:
        found = f"{samples} channels ({kind.lower()})" if page.imagedepth == 1 else f"{page.imagedepth} layers"
        raise ImageError(f"has {found}, not 1, 3 or red, green, blue, alpha: choose one, or three as colors")
    ends = (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
    if max(ends, default=0) > file.filehandle.size:
        raise OSError("it is cut off")
    read_stored = _segment_reader(path, page)

    def read(*window: int) -> np.ndarray:
        pixels = read_stored(*window)
        if kind == "MINISWHITE":
            top = np.array(0 if pixels.dtype.kind in "if" else 2**page.bitspersample - 1, pixels.dtype)
            pixels = top ^ pixels if pixels.dtype == bool else top - pixels
        return pixels[..., 0] if samples < 3 else pixels

    size, orientation = (page.imagewidth, page.imagelength), page.tags.valueof("Orientation", default=1)
    info = ImageInfo(0, 0, size, pages, str(page.dtype), samples, int(orientation), "TIFF")
    return _source(info, read, file.close)


def _segment_reader(path: str, page: Any) -> Reader:
    """Reads (h, w, samples) of a page, decoding no more than the strips or tiles that are touched."""
    height, width, samples, file = page.imagelength, page.imagewidth, page.samplesperpixel, page.parent.filehandle
    planes = samples if page.planarconfig == 2 else 1

    def mapped(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        # mapped anew for each window, which frees the memory of the last one
        stored = tifffile.memmap(path, page=page.index, mode="r").reshape(planes, height, width, -1)
        return _interleaved(stored[:, y0:y1, x0:x1].astype(page.dtype))

    if page.is_memmappable:
        return mapped
    step_y, step_x = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    rows, columns = -(-height // step_y), -(-width // step_x)
    if (nbytes := step_y * step_x * samples // planes * page.dtype.itemsize) > MAX_SEGMENT:
        raise ImageError(f"is too large, a strip or tile of {nbytes / 2**30:.1f} GiB: save it with tiles of 512 x 512")
    jpeg = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}

    @functools.lru_cache(maxsize=max(1, CACHE // nbytes))
    def segment(index: int) -> tuple[np.ndarray | None, int, int]:
        file.seek(page.dataoffsets[index])
        data = file.read(page.databytecounts[index]) or None
        pixels, (_, _, y, x, _), _ = page.decode(data, index, **jpeg)
        return pixels, y, x

    def decoded(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        window = np.zeros((planes, y1 - y0, x1 - x0, samples // planes), page.dtype)
        touched = range(planes), range(y0 // step_y, -(-y1 // step_y)), range(x0 // step_x, -(-x1 // step_x))
        for plane, row, column in itertools.product(*touched):
            pixels, y, x = segment((plane * rows + row) * columns + column)
            if pixels is not None:  # never written, in a sparse file
                top, left = max(y, y0), max(x, x0)
                part = pixels[0, top - y : y1 - y, left - x : x1 - x]
                window[plane, top - y0 :, left - x0 :][: len(part), : part.shape[1]] = part
        return _interleaved(window)

    return decoded


def _interleaved(window: np.ndarray) -> np.ndarray:
    """(h, w, samples) of (planes, h, w, samples of each)."""
    return window[0] if len(window) == 1 else np.moveaxis(window[..., 0], 0, -1)
