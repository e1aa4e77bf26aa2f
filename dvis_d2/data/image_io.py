"""Images, read once and rightly by one function, whoever reads them: check, training, evaluation, inference.

Pixels are turned upright as the EXIF orientation says, once, in JPEG, PNG, WebP and TIFF alike: as browsers and so the
annotation tools show them. Alpha is dropped, unless a single color is drawn by it. Other types than 8 bits become
uint8 as INPUT.NORMALIZE, the argument `normalize`, says:

- "auto": 8-bit pixels stay, whatever type holds them (0..255, k / 255 or 257 k); others are stretched, see :mod:`.pixels`
- "percentile": all are stretched
- "none": 8-bit pixels stay, 16-bit ones are divided by 257, floats of 0..1 multiplied by 255; others are refused

`image_format` is the order of the colors, "BGR" or "RGB". `page` counts a stack's or animation's from 0; None is the
first, with a warning where there are more. Errors name the file: FileNotFoundError; OSError where it cannot be read;
ImageError, a ValueError, where it has too many channels or pixels, other pages, or NaN or infinite values.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image, ImageOps

from . import pixels as _pixels
from .image_files import MAX_PIXELS, ImageError, open_source, pillow_pixels

BAND = 2**20  # pixels that are converted at a time
# EXIF's orientation: transpose, then flip vertically, then horizontally
TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}


class ImageInfo(NamedTuple):
    """What the header of an image file says."""

    width: int  # as read, upright
    height: int
    stored_size: tuple[int, int]  # (width, height) as stored
    pages: int  # of a stack or animation
    dtype: str  # of the stored values: "uint8", "uint16", "float32", ...
    channels: int  # stored; 2 or 4 with alpha; 3 for a palette
    orientation: int  # EXIF's, 1 to 8; 1 is upright
    format: str  # "JPEG", "PNG", "TIFF", ...


class ImageWindows:
    """An image read by windows, for those too large to hold: of a TIFF only the strips or tiles that are touched are
    decoded; other formats are decoded once. The same pixels as :func:`read_image`'s. To be closed, or used in `with`."""

    def __init__(
        self,
        file_name: str | os.PathLike,
        image_format: str = "BGR",
        *,
        page: int | None = None,
        normalize: str = "auto",
    ):
        self._name, self._reverse = os.fspath(file_name), _check_format(image_format) == "BGR"
        with _errors_name(self._name):
            self._source = open_source(PathManager.get_local_path(self._name), page or 0)
            if page is None and self._source.pages > 1:
                what = f"image {self._name} has {self._source.pages} pages; of it and others like it the first is read"
                log_first_n(logging.WARNING, what, name=__name__)
            self._transpose, self._flip_y, self._flip_x = TURNS.get(self._source.orientation, (0, 0, 0))
            height, width = self._source.size
            self.shape = (width, height) if self._transpose else (height, width)  # (H, W)
            self._convert = _fit(self._source.read, self._source.size, normalize)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """uint8 (y1 - y0, x1 - x0, 3) of the window, which lies in the image."""
        height, width = self.shape
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ValueError(f"window [{y0}, {y1}) x [{x0}, {x1}) is not in {self._name}, {height} x {width}")
        with _errors_name(self._name):
            return _converted(self._upright, (y0, y1, x0, x1), self._convert, self._reverse)

    def _upright(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        height, width = self.shape
        if self._flip_y:
            y0, y1 = height - y1, height - y0
        if self._flip_x:
            x0, x1 = width - x1, width - x0
        window = self._source.read(*((x0, x1, y0, y1) if self._transpose else (y0, y1, x0, x1)))
        window = window.swapaxes(0, 1) if self._transpose else window
        return window[:: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1]

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> "ImageWindows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_image(
    file_name: str | os.PathLike, image_format: str = "BGR", *, page: int | None = None, normalize: str = "auto"
) -> np.ndarray:
    """uint8 (H, W, 3) of an image file of any kind."""
    with ImageWindows(file_name, image_format, page=page, normalize=normalize) as image:
        height, width = image.shape
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"image {file_name} is too large to be held, {width} x {height} px: cut it into parts of at most "
                f"{MAX_PIXELS / 1e6:.0f} megapixels"
            )
        return image.read(0, height, 0, width)


def to_image(pixels: Any, image_format: str = "BGR", *, normalize: str = "auto") -> np.ndarray:
    """uint8 (H, W, 3) of an image in memory or of a path.

    NumPy arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors may be (1, 3 or 4, H, W) as well; of bool, integer
    or float type; with colors in the order of `image_format`, then alpha. PIL images are turned upright. TypeError or
    ValueError, which name type and shape, for anything else.
    """
    reverse = _check_format(image_format) == "BGR" and isinstance(pixels, Image.Image)
    if isinstance(pixels, str | os.PathLike):
        return read_image(pixels, image_format, normalize=normalize)
    if isinstance(pixels, Image.Image):
        pixels.load()  # Pillow turns TIFF here
        pixels = pillow_pixels(ImageOps.exif_transpose(pixels))
    elif isinstance(pixels, torch.Tensor):
        pixels = (pixels.float() if pixels.dtype == torch.bfloat16 else pixels).detach().cpu().numpy()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
            pixels = np.moveaxis(pixels, 0, 2)
    expected = "expected are bool, integers or floats, (H, W) or (H, W, 1, 3 or 4)"
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"an image is a {type(pixels).__name__}; {expected}, as NumPy array, tensor, PIL image or path")
    what = f"the image, {pixels.dtype} {pixels.shape},"
    if pixels.dtype.kind not in "buif":
        raise TypeError(f"{what} has no pixels; {expected}")
    if pixels.ndim not in (2, 3) or not pixels.size or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"{what} has a shape that is no image's; {expected}")
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else np.asarray(pixels)

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return pixels[y0:y1, x0:x1]

    height, width = pixels.shape[:2]
    try:
        return _converted(read, (0, height, 0, width), _fit(read, (height, width), normalize), reverse)
    except ImageError as error:
        raise ImageError(f"{what} {error}") from error


def probe_image(file_name: str | os.PathLike, *, page: int = 0) -> ImageInfo:
    """The header of an image; nothing is decoded but what looks cut off. Larger images than MAX_PIXELS, which
    :func:`read_image` refuses, are described; else it raises what that raises, but for values that are not finite."""
    with _errors_name(name := os.fspath(file_name)):
        with contextlib.closing(open_source(PathManager.get_local_path(name), page)) as source:
            source.check()
            stored = source.size[1], source.size[0]
            upright = stored[::-1] if TURNS.get(source.orientation, (0,))[0] else stored
            pages, dtype, channels = source.pages, source.dtype, source.channels
            return ImageInfo(*upright, stored, pages, dtype, channels, source.orientation, source.format)


def _fit(read: Callable[..., np.ndarray], size: tuple[int, int], normalize: str) -> _pixels.Conversion:
    height, width = size
    corner = read(0, 1, 0, 1)
    if corner.dtype == np.uint8 and corner.shape[2:] != (4,) and normalize != "percentile":  # nothing to find out
        return _pixels.fit(corner, normalize)
    step = -(-height * width // _pixels.SAMPLE)
    rows = [read(y, y + 1, 0, width) for y in range(0, height, step)] if step > 1 else [read(0, height, 0, width)]
    return _pixels.fit(np.concatenate(rows), normalize)


def _converted(
    read: Callable[..., np.ndarray],
    window: tuple[int, int, int, int],
    convert: _pixels.Conversion,
    reverse: bool,
) -> np.ndarray:
    """uint8 (h, w, 3) of a window, a few rows at a time: their values may need eight times the memory."""
    top, bottom, left, right = window
    image = np.empty((bottom - top, right - left, 3), np.uint8)
    step = max(1, BAND // (right - left))
    for y in range(top, bottom, step):
        values = convert(read(y, min(y + step, bottom), left, right))
        image[y - top : y - top + step] = (
            values[..., None] if values.ndim == 2 else values[:, :, :: -1 if reverse else 1]
        )
    return image


def _check_format(image_format: str) -> str:
    if image_format not in ("BGR", "RGB"):
        raise ValueError(
            f"INPUT.FORMAT is {image_format!r}: give BGR or RGB; gray images are read as three equal colors"
        )
    return image_format


@contextlib.contextmanager
def _errors_name(file_name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {file_name} does not exist: correct the image folder or the name") from error
    except ImageError as error:
        raise ImageError(f"image {file_name} {error}") from error
    except Exception as error:  # whatever the decoders make of malformed files
        raise OSError(f"image {file_name} cannot be read ({error}): copy it again or leave it out") from error
