"""Images, read once and rightly by one function, whoever reads them: check, training, evaluation, inference.

Pixels are turned upright as the EXIF orientation says, once, in JPEG, PNG, WebP and TIFF alike: as browsers, and so the
annotation tools in them, show them. Alpha is dropped, unless one color is drawn by it. INPUT.NORMALIZE, the argument
`normalize`, says how other than 8-bit pixels become uint8; see :mod:`.pixels`. `image_format` is the order of the
colors, "BGR" or "RGB", or "L", for gray images (H, W, 1). `page` of a stack or animation counts from 0; None is the
first, with a warning if there are more. Errors name the file: FileNotFoundError; OSError where it cannot be read;
:class:`ImageError`, a ValueError, where it has too many channels or pixels, not that page, or no finite values.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image, ImageOps

from .image_files import MAX_PIXELS, ImageError, ImageInfo, Reader, open_image, pillow_pixels
from .pixels import SAMPLE, Conversion, fit_conversion

BAND = 2**20  # pixels that are converted at a time
EXPECTED = "expected are booleans, integers or floats, (H, W) or (H, W, 1, 3 or 4)"
Path = str | os.PathLike


class ImageWindows(contextlib.AbstractContextManager):
    """An image read by windows, for those too large to hold: of a TIFF the strips or tiles that are touched are
    decoded, other formats once. Pixels are those of :func:`read_image`, or, by ``stored(y0, y1, x0, x1)``, those of the
    file, (h, w), or RGB(A) (h, w, 3 or 4), upright. To be closed, or used in `with`."""

    def __init__(self, file_name: Path, image_format: str = "BGR", *, page: int | None = None, normalize: str = "auto"):
        self._name, self._format = os.fspath(file_name), _checked(image_format, normalize)
        with _errors_name(self._name), contextlib.ExitStack() as stack:
            source = open_image(PathManager.get_local_path(self._name), page or 0)
            stack.callback(source.close)
            if page is None and (pages := source.info.pages) > 1:
                what = f"image {self._name} has {pages} pages; of it, and of others like it, the first is read"
                log_first_n(logging.WARNING, what, name=__name__)
            self.shape, self.dtype = (source.info.height, source.info.width), source.info.dtype  # (H, W), of the file
            self.stored, self._convert = source.read, _fit(source.read, self.shape, normalize)
            self.close = stack.pop_all().close

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """uint8 (y1 - y0, x1 - x0, 3) of a window inside the image."""
        if not (0 <= y0 < y1 <= self.shape[0] and 0 <= x0 < x1 <= self.shape[1]):
            raise ValueError(f"window {y0}:{y1}, {x0}:{x1} is not inside {self._name}, of {self.shape}")
        with _errors_name(self._name):
            return _converted(self.stored, (y0, y1, x0, x1), self._convert, self._format)

    def __exit__(self, *_: object) -> None:
        self.close()


def read_image(
    file_name: Path, image_format: str = "BGR", *, page: int | None = None, normalize: str = "auto"
) -> np.ndarray:
    """uint8 (H, W, 3) of an image file of any kind."""
    with ImageWindows(file_name, image_format, page=page, normalize=normalize) as image:
        height, width = image.shape
        if height * width > MAX_PIXELS:
            most = f"cut it into parts of at most {MAX_PIXELS / 1e6:.0f} megapixels"
            raise ImageError(f"image {file_name} is too large to be held, {width} x {height} px: {most}")
        return image.read(0, height, 0, width)


def to_image(pixels: Any, image_format: str = "BGR", *, normalize: str = "auto") -> np.ndarray:
    """uint8 (H, W, 3) of an image in memory.

    NumPy arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), tensors may also be (1, 3 or 4, H, W); of boolean,
    integer or float type; with colors in the order of `image_format`, then alpha. PIL images are turned upright, a path
    is read. TypeError or ValueError, with type and shape, for anything else.
    """
    order = _checked(image_format, normalize)
    if isinstance(pixels, Path):
        return read_image(pixels, image_format, normalize=normalize)
    if isinstance(pixels, Image.Image):
        pixels.load()  # which turns TIFF
        pixels = pillow_pixels(ImageOps.exif_transpose(pixels))
    elif order == "BGR":
        order = "RGB"  # as it is
    if isinstance(pixels, torch.Tensor):
        pixels = (pixels.float() if pixels.dtype == torch.bfloat16 else pixels).detach().cpu().numpy()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
            pixels = np.moveaxis(pixels, 0, 2)
    if not isinstance(pixels, np.ndarray):
        raise TypeError(f"an image is a {type(pixels).__name__}; {EXPECTED}, as array, tensor, PIL image or path")
    what = f"the image, {pixels.dtype} {pixels.shape},"
    if pixels.dtype.kind not in "buif":
        raise TypeError(f"{what} has no pixels; {EXPECTED}")
    if pixels.ndim not in (2, 3) or not pixels.size or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"{what} has not the shape of an image; {EXPECTED}")
    values = pixels[..., 0] if pixels.shape[2:] == (1,) else np.asarray(pixels)
    height, width = values.shape[:2]

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return values[y0:y1, x0:x1]

    try:
        return _converted(read, (0, height, 0, width), _fit(read, (height, width), normalize), order)
    except ImageError as error:
        raise ImageError(f"{what} {error}") from error


def probe_image(file_name: Path, *, page: int = 0) -> ImageInfo:
    """The header of an image file; nothing is decoded but what seems cut off. Errors are those of :func:`read_image`,
    but TIFF above MAX_PIXELS is described: :class:`ImageWindows` reads it."""
    name = os.fspath(file_name)
    with _errors_name(name), contextlib.closing(open_image(PathManager.get_local_path(name), page)) as source:
        return source.info


def _fit(read: Reader, size: tuple[int, int], normalize: str) -> Conversion:
    (height, width), sample = size, read(0, 1, 0, 1)
    if sample.dtype != np.uint8 or sample.shape[2:] == (4,) or normalize == "percentile":  # or nothing to find out
        step = -(-height * width // SAMPLE)
        rows = [read(y, y + 1, 0, width) for y in range(0, height, step)] if step > 1 else [read(0, height, 0, width)]
        sample = np.concatenate(rows)
    return fit_conversion(sample, normalize)


def _converted(read: Reader, window: tuple[int, int, int, int], convert: Conversion, order: str) -> np.ndarray:
    """uint8 (h, w, 3) of a window, a few rows at a time: in between they may need eight times the memory."""
    top, bottom, left, right = window
    image = np.empty((bottom - top, right - left, 3), np.uint8)
    step = max(1, BAND // (right - left))
    for y in range(top, bottom, step):
        values = convert(read(y, min(y + step, bottom), left, right))
        colors = values[..., None] if values.ndim == 2 else values[..., :: -1 if order == "BGR" else 1]
        image[y - top : y - top + step] = colors
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if order == "L" else image


def _checked(image_format: str, normalize: str) -> str:
    options = (("FORMAT", image_format, ("BGR", "RGB", "L")), ("NORMALIZE", normalize, ("auto", "percentile", "none")))
    for key, value, known in options:
        if value not in known:
            raise ValueError(f"INPUT.{key} is {value!r}: give one of {', '.join(known)}")
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
