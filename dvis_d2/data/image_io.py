"""Read images so that every failure names the file, and 16-bit gray images keep their content."""

import os

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

HIGH_DEPTH_MODES = ("I", "I;16", "I;16L", "I;16B", "F")  # PIL's modes of one channel with more than 8 bits
PIL_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what a damaged file raises


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """uint8 (H, W, C) of an image of any mode, turned as its EXIF orientation says.

    Gray and palette images become color, an alpha channel is dropped, and 16-bit gray values are divided by 257, where
    PIL would clip them at 255. `image_format` is one of `detection_utils.read_image` ("RGB", "BGR", "L", ...).
    FileNotFoundError where there is no such file, OSError where it is broken or no integer image of 8 or 16 bits.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            mode = Image.open(file).mode
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
