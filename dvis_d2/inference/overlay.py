"""Objects drawn over their image, uint8 RGB, and pictures as files."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.cropped_masks import CroppedMasks
from .colors import neighbor_colors

FEW_OBJECTS = 15  # of more than this the boxes would hide the picture


def write_picture(path: str, image: np.ndarray) -> None:
    """Write an RGB image in the format that the path ends in; OSError if that fails."""
    try:
        written = cv2.imwrite(path, np.ascontiguousarray(image[:, :, ::-1]))
    except cv2.error:  # no such format
        written = False
    if not written:
        raise OSError(f"{path} cannot be written: its folder is not writable, or it ends in no image format")


def draw_overlay(
    image: np.ndarray, masks: CroppedMasks, captions: Sequence[str] = (), colors: np.ndarray | None = None
) -> np.ndarray:
    """The masks over the image, the first on top; `colors` (K, 3) are by default :func:`neighbor_colors`. With
    `captions` also boxes, where the masks are few, and each caption for which there is room beside the other objects.
    """
    canvas = np.ascontiguousarray(image).copy()
    colors = neighbor_colors(masks.boxes, masks.image_size) if colors is None else colors
    for (x, y, x1, y1), crop, color in list(zip(masks.boxes.tolist(), masks.crops, colors, strict=True))[::-1]:
        tile = canvas[y:y1, x:x1]
        tile[crop] = tile[crop] * 0.6 + color * 0.4
        contours, _ = cv2.findContours(crop.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, color.tolist(), 1, offset=(x, y))
    if not captions:
        return canvas
    picture = Image.fromarray(canvas)
    pen, size, few = ImageDraw.Draw(picture), max(min(canvas.shape[:2]) / 40, 11), len(masks) <= FEW_OBJECTS
    boxes = masks.boxes
    taken = boxes.copy()
    for k, (caption, color) in enumerate(zip(captions, colors.astype(int), strict=True)):
        (x0, y0, x1, y1), tint = boxes[k].tolist(), tuple(color.tolist())
        if few:
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=tint)
        _, _, width, height = pen.textbbox((0, 0), caption, ImageFont.load_default(size))
        if not few and width > x1 - x0:
            continue  # among many it would not be clear whose it is
        left = max(0, min(x0, canvas.shape[1] - width))
        for top in (y0 - height, y1, *[y0] * (y1 - y0 > 3 * height)):  # above, below, inside a large one
            place = left, top, left + width, top + height
            others = np.delete(taken, k, axis=0)
            meets = (others[:, :2] < place[2:]).all(1) & (others[:, 2:] > place[:2]).all(1)
            if 0 <= top <= canvas.shape[0] - height and not meets.any():
                write_text(pen, (left, top), caption, tint, size)
                taken = np.concatenate([taken, [place]])
                break
    return np.asarray(picture)


def write_text(pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: tuple, size: float) -> None:
    """Text on black."""
    font = ImageFont.load_default(size)
    _, _, right, bottom = pen.textbbox(corner, text, font)
    pen.rectangle((*corner, right - 1, bottom - 1), fill=(0, 0, 0))
    pen.text(corner, text, color, font)
