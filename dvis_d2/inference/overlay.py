"""Objects drawn over their image, uint8 RGB, and pictures as files."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.cropped_masks import CroppedMasks

MAX_LABELS = 15  # of more instances than this the labels would hide the picture


def write_picture(path: str, image: np.ndarray) -> None:
    """Write an RGB image in the format that the path ends in; OSError if that fails."""
    try:
        written = cv2.imwrite(path, np.ascontiguousarray(image[:, :, ::-1]))
    except cv2.error:  # no such format
        written = False
    if not written:
        raise OSError(f"{path} cannot be written: its folder is not writable, or it ends in no image format")


def draw_overlay(image: np.ndarray, masks: CroppedMasks, captions: Sequence[str] = ()) -> np.ndarray:
    """The masks over the image, each in a color of its own, the first on top; with `captions` also these and boxes, but
    only where they are few."""
    canvas = np.ascontiguousarray(image).copy()
    colors = distinct_colors(len(masks))
    for (x, y, x1, y1), crop, color in list(zip(masks.boxes.tolist(), masks.crops, colors, strict=True))[::-1]:
        tile = canvas[y:y1, x:x1]
        tile[crop] = tile[crop] * 0.6 + color * 0.4
        contours, _ = cv2.findContours(crop.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, color.tolist(), 1, offset=(x, y))
    if len(masks) > MAX_LABELS:
        return canvas
    picture = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(min(canvas.shape[:2]) / 40, 11))
    for (x0, y0, x1, y1), caption, color in zip(masks.boxes.tolist(), captions, colors.astype(int), strict=False):
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=tuple(color))
        *_, width, height = pen.textbbox((0, 0), caption, font)
        top = max(y0 - height, 0)
        pen.rectangle((x0, top, x0 + width, top + height), fill=(0, 0, 0))
        pen.text((x0, top), caption, tuple(color), font)
    return np.asarray(picture)


def distinct_colors(num: int) -> np.ndarray:
    """(num, 3) in [0, 255]: hues evenly spaced."""
    return 255 * np.array([colorsys.hsv_to_rgb(k / num, 1, 1) for k in range(num)]).reshape(-1, 3)
