"""Image files of every kind, opened without decoding them: TIFF by tifffile, PNG of 16-bit colors by OpenCV, the rest by
Pillow."""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image

MAX_PIXELS = 178_956_970  # of an image that is decoded as a whole; Pillow's limit, 13,377 x 13,377
MAX_SIDE = 1_000_000
MAX_SEGMENT = 2**30  # bytes of one decoded strip or tile
CACHE = 2**28  # bytes of decoded strips and tiles that are kept
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# without those that start other programs (EPS) or have no magic number; TIFF for colors that tifffile does not convert
FORMATS = "AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI SGI WEBP".split()
NO_IMAGES = {
    b"version https://git-lfs": "a pointer of git-lfs; `git lfs pull` fetches the image",
    b"<": "a web page or other XML; download the image again",
    b"\x93NUMPY": "a NumPy array; save it as TIFF or PNG",
    b"PK\3\4": "a ZIP archive; unpack it",
    b"%PDF": "a PDF; save its pages as PNG",
    b"\x89HDF": "an HDF5 file; save its images as TIFF or PNG",
}
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
DTYPES = {"I": "int32", "F": "float32", "I;16": "uint16", "I;16B": "uint16", "I;16L": "uint16", "I;16N": "uint16"}
COLORS = {"1": "L", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBa": "RGBA"}  # what other modes than RGB become

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked here


class ImageError(ValueError):
    """An image that can be read and not be used: too large, with too many channels, without the page asked for."""


class Source(NamedTuple):
    """One page of a file. `read(y0, y1, x0, x1)` gives stored pixels, (h, w) or RGB or RGBA (h, w, 3 or 4)."""

    format: str
    size: tuple[int, int]  # (height, width) as stored
    dtype: str
    channels: int  # as stored; 3 for a palette
    pages: int
    orientation: int  # EXIF's; 1 is upright
    read: Callable[[int, int, int, int], np.ndarray]
    check: Callable[[], None]  # raises if the file is cut off
    close: Callable[[], None]


def open_source(path: str, page: int) -> Source:
    """Any exception where the file cannot be read; ImageError where its pixels cannot be used."""
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise OSError("it is empty, 0 bytes")
    source = (_open_tiff if head.startswith(TIFF) else _open_pillow)(path, page, head)
    if max(source.size) > MAX_SIDE or not min(source.size):
        raise ImageError(f"is too large, {source.size[1]} x {source.size[0]} px: cut it into parts")
    return source


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """Pixels as in :class:`Source`, of any of Pillow's modes."""
    if image.mode not in DTYPES and image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert(COLORS.get(image.mode, "RGB"))
    return np.asarray(image)


def _check_page(page: int, pages: int) -> None:
    if not 0 <= page < pages:
        raise ImageError(f"has no page {page}: its pages are 0 to {pages - 1}")


def _open_pillow(path: str, page: int, head: bytes) -> Source:
    for start, what in NO_IMAGES.items():
        if head.lstrip().startswith(start):
            raise OSError(f"it is {what}")
    try:
        image = Image.open(path, formats=["TIFF"] if head.startswith(TIFF) else FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"is too large ({error}): cut it into parts or save it as a TIFF with tiles") from error
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: phones add other views
    _check_page(page, pages)
    image.seek(page)
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 65536))
        tail = file.read()
    # of a PNG without it Pillow would decode all; of a TIFF it turns the pixels itself
    none = image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info and b"eXIf" not in tail)
    orientation = 1 if none else image.getexif().get(ExifTags.Base.Orientation, 1)
    deep = image.format == "PNG" and head[24] == 16 and len(image.getbands()) > 1  # Pillow would drop 8 bits

    @functools.cache
    def decoded() -> np.ndarray:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise OSError("it is cut off or broken")
        return pixels

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        if deep:
            pixels = decoded()[y0:y1, x0:x1]
            return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        return pillow_pixels(image.crop((x0, y0, x1, y1)))

    def check() -> None:
        if ENDS.get(image.format, b"?") not in tail:
            read(0, 1, 0, 1)

    size, channels = image.size[::-1], 3 if image.mode == "P" else len(image.getbands())
    dtype = "uint16" if deep else DTYPES.get(image.mode, "uint8")
    return Source(image.format, size, dtype, channels, pages, orientation, read, check, image.close)


def _open_tiff(path: str, number: int, head: bytes) -> Source:
    file = tifffile.TiffFile(path)
    pages = len(file.pages)
    if pages > 1 and (file.is_svs or file.pages[1].is_reduced):  # the same picture in other sizes
        pages = 1
    _check_page(number, pages)
    page = file.pages[number]
    kind, samples = page.photometric.name, page.samplesperpixel
    jpeg = page.compression in (6, 7, 33007, 34892)
    if page.is_reduced:
        raise ImageError("has a preview alone, as the raw files of cameras: export it as TIFF or PNG")
    if kind not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not (kind == "YCBCR" and jpeg):
        return _open_pillow(path, number, head)  # turns it upright, too
    alpha = samples == 2 and page.extrasamples[:1] in ((1,), (2,))
    if not (samples in (1, 3) or alpha or (samples == 4 and kind == "RGB")) or page.imagedepth > 1:
        found = f"{samples} channels ({kind.lower()})" if page.imagedepth == 1 else f"{page.imagedepth} layers"
        raise ImageError(f"has {found}, not 1, 3 or red, green, blue, alpha: choose one, or three as colors")
    tag = page.tags.get("Orientation")
    read = _segment_reader(path, page, {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if jpeg else {})

    def upright_values(*window: int) -> np.ndarray:
        pixels = read(*window)
        if kind == "PALETTE":
            table = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
            return np.moveaxis(table[:, pixels[..., 0]], 0, -1).astype(np.uint8)
        if kind == "MINISWHITE":
            white = 2**page.bitspersample - 1 if pixels.dtype.kind in "bu" else 0
            pixels = white - pixels if pixels.dtype != bool else ~pixels
        return pixels[..., 0] if samples < 3 else pixels

    def check() -> None:
        ends = (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > file.filehandle.size:
            raise OSError("it is cut off")

    size, orientation = (page.imagelength, page.imagewidth), tag.value if tag else 1
    channels = 3 if kind == "PALETTE" else samples
    return Source("TIFF", size, str(page.dtype), channels, pages, orientation, upright_values, check, file.close)


def _segment_reader(path: str, page: tifffile.TiffPage, options: dict) -> Callable[[int, int, int, int], np.ndarray]:
    """Reads windows (h, w, samples) of a page, of which no more is decoded than the strips or tiles they touch."""
    height, width, samples, file = page.imagelength, page.imagewidth, page.samplesperpixel, page.parent.filehandle
    planes = samples if page.planarconfig == 2 else 1
    shape = (planes, height, width, samples // planes)

    def mapped(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        dtype = page.dtype.newbyteorder(page.parent.byteorder)
        stored = np.memmap(path, dtype, "r", page.dataoffsets[0], shape)  # mapped anew: pages that were read are freed
        return _interleaved(stored[:, y0:y1, x0:x1])

    if page.is_memmappable:
        return mapped
    step_y, step_x = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    rows, columns = -(-height // step_y), -(-width // step_x)
    if (nbytes := step_y * step_x * shape[3] * page.dtype.itemsize) > MAX_SEGMENT:
        raise ImageError(f"is too large, a strip or tile of {nbytes / 2**30:.1f} GiB: save it with tiles of 512 x 512")

    @functools.lru_cache(maxsize=max(1, CACHE // nbytes))
    def segment(index: int) -> np.ndarray | None:
        file.seek(page.dataoffsets[index])
        data = file.read(count := page.databytecounts[index])
        if len(data) < count:
            raise OSError("it is cut off")
        return page.decode(data or None, index, **options)[0]

    def decoded(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        window = np.zeros((planes, y1 - y0, x1 - x0, shape[3]), page.dtype)
        for plane in range(planes):
            for row in range(y0 // step_y, -(-y1 // step_y)):
                for column in range(x0 // step_x, -(-x1 // step_x)):
                    tile = segment((plane * rows + row) * columns + column)
                    if tile is None:  # sparse file: never written
                        continue
                    top, left = row * step_y, column * step_x
                    bottom, right = min(top + tile.shape[1], y1), min(left + tile.shape[2], x1)
                    y, x = max(top, y0), max(left, x0)
                    window[plane, y - y0 : bottom - y0, x - x0 : right - x0] = tile[
                        0, y - top : bottom - top, x - left : right - left
                    ]
        return _interleaved(window)

    return decoded


def _interleaved(planes: np.ndarray) -> np.ndarray:
    """(h, w, samples) of (planes, h, w, samples of a plane)."""
    return np.array(planes[0] if len(planes) == 1 else np.moveaxis(planes[..., 0], 0, -1))
