"""Read images so that every failure names the file, and 16-bit grey images keep their content."""

from __future__ import annotations

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from .ground_truth import decode_rle

HIGH_DEPTH_MODES = ("I", "I;16", "I;16L", "I;16B", "F")  # PIL's modes of one channel with more than 8 bits


def read_image(file_name: str, image_format: str) -> np.ndarray:
    """Read an image of any mode as 8 bits per channel, turned as its EXIF orientation says.

    Grey and palette images become colour, an alpha channel is dropped, and 16-bit grey values are divided by
    257 (65535 becomes 255, the same for every image). PIL alone would clip them at 255.

    Args:
        file_name: a path or anything else that Detectron2's `PathManager` opens.
        image_format: "RGB", "BGR", "L" or another format of `detection_utils.read_image`.

    Returns:
        (H, W, C), uint8, in 0..255.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file is no image, is truncated, or is not an integer image of 8 or 16 bits.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            mode = Image.open(file).mode
        if mode not in HIGH_DEPTH_MODES:
            return detection_utils.read_image(file_name, format=image_format)
        pixels = detection_utils.read_image(file_name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"image {file_name} does not exist: correct the image folder or the file name in the annotations"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all four
        raise OSError(
            f"cannot read image {file_name} ({error}): the file is truncated or no image; copy it again or "
            "take it out of the annotations"
        ) from error
    if mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise OSError(
            f"image {file_name} has {'floating-point' if mode == 'F' else '32-bit'} pixels: "
            "save it with 8 or 16 bits per channel"
        )
    grey = Image.fromarray((pixels // 257).astype(np.uint8))
    return detection_utils.convert_PIL_to_numpy(grey, image_format)


def read_ignore_mask(ignore_mask: str | dict | np.ndarray, height: int, width: int, file_name: str) -> np.ndarray:
    """The pixels of an image that neither training nor the losses may use.

    Args:
        ignore_mask: an array (H, W), a COCO RLE, or the path of an image file; what is not 0 is ignored.
        height, width: of the image before augmentation.
        file_name: of the image, for the error message.

    Returns:
        bool (height, width).

    Raises:
        ValueError: the mask's size is not the image's.
    """
    if isinstance(ignore_mask, str):
        pixels = detection_utils.read_image(ignore_mask)
        mask = pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0
    elif isinstance(ignore_mask, dict):
        mask = decode_rle(ignore_mask, f"{file_name}, ignore_mask") != 0
    else:
        mask = np.asarray(ignore_mask) != 0
    if mask.shape != (height, width):
        raise ValueError(f"{file_name}: its ignore_mask has shape {mask.shape}, the image {(height, width)}")
    return mask
