"""Read images so that every failure names the file, and 16-bit gray images keep their content."""

import os
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

HIGH_DEPTH_MODES = ("I", "I;16", "I;16L", "I;16B", "F")  # PIL's modes of one channel with more than 8 bits
PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what a damaged file raises


class ImageInfo(NamedTuple):
    width: int
    height: int
    pages: int


def probe_image(file_name: str) -> ImageInfo:
    try:
        with Image.open(file_name) as image:
            return ImageInfo(image.width, image.height, getattr(image, "n_frames", 1))
    except PIL_ERRORS as error:
        raise OSError(f"cannot read image {file_name} ({error}): copy it again or leave it out") from error


def to_image(pixels, image_format: str = "BGR", *, normalize: str = "auto") -> np.ndarray:
    if isinstance(pixels, torch.Tensor):
        pixels = pixels.cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 and pixels.shape[0] in (1, 3) else pixels
    array = np.asarray(pixels)
    if array.dtype != np.uint8:
        array = (array * (255 / max(array.max(), 1e-6))).astype(np.uint8)
    array = np.repeat(array.reshape(*array.shape[:2], -1), 3, axis=2)[:, :, :3] if array.ndim == 2 else array
    return array[:, :, :: 1 if image_format == "RGB" else -1]


def read_image(file_name: str, image_format: str, *, page: int = 0) -> np.ndarray:
    """uint8 (H, W, C) of an image of any mode, turned as its EXIF orientation says.

    Gray and palette images become color, an alpha channel is dropped, and 16-bit gray values are divided by 257, where
    PIL would clip them at 255. `image_format` is one of `detection_utils.read_image` ("RGB", "BGR", "L", ...).
    FileNotFoundError where there is no such file, OSError where it is broken or no integer image of 8 or 16 bits.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            opened = Image.open(file)
            mode = opened.mode
            if page:
                opened.seek(page)
                return np.asarray(opened.convert("RGB"))
        if mode not in HIGH_DEPTH_MODES:
            return detection_utils.read_image(file_name, format=image_format)
        pixels = detection_utils.read_image(file_name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {file_name} does not exist: correct the image folder or the name") from error
    except PIL_ERRORS as error:
        raise OSError(f"cannot read image {file_name} ({error}): copy it again or leave it out") from error
    if mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        kind = "floating-point" if mode == "F" else "32-bit"
        raise OSError(f"image {file_name} has {kind} pixels: save it with 8 or 16 bits per channel")
    return detection_utils.convert_PIL_to_numpy(Image.fromarray((pixels // 257).astype(np.uint8)), image_format)


def oriented_size(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of an image as Detectron2 reads it, from its header alone. Raises :data:`PIL_ERRORS`."""
    with Image.open(path) as image:
        # Other formats would be decoded for their EXIF data, and cameras write JPEG. 5 to 8 swap width and height.
        turned = image.format in ("JPEG", "MPO") and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size
