"""A network that finds what is bright, and pictures for it."""

from types import SimpleNamespace

import cv2
import numpy as np
from click.testing import CliRunner

from dvis_d2.cli import main
from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.result import Result
from dvis_d2.inference.writers import STATE


class Bright:
    """In place of a Model: every bright region is an object, of class "big" from 50 pixels on."""

    class_names = ["small", "big"]
    cfg = SimpleNamespace(MODEL=SimpleNamespace(WEIGHTS="bright.pth"), INPUT=SimpleNamespace(NORMALIZE="auto"))

    def __init__(self):
        self.seen = 0

    def detect(self, image, pixels, *, confidence_threshold, scale):
        self.seen += 1
        _, parts = cv2.connectedComponents((image[:, :, 0] > 128).astype(np.uint8))
        masks = CroppedMasks.from_masks(np.stack([parts == k for k in range(1, parts.max() + 1)] or [parts > 9])[:9])
        masks = masks[np.flatnonzero(masks.areas())]
        scores = np.linspace(0.9, 0.6, len(masks)).astype(np.float32)
        classes = (masks.areas() >= 50).astype(np.int64)
        return Result(masks, masks.boxes.astype(np.float32), scores, classes, self.class_names, image, pixels)

    def draw_panel(self, image, *, confidence_threshold):
        return np.concatenate([image, image], axis=1)


def picture(boxes, size=(48, 64)):
    image = np.zeros((*size, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    return image


TWO = [(2, 3, 7, 8), (20, 10, 40, 30)]  # 25 and 400 pixels


def run(*args, code=0):
    result = CliRunner().invoke(main, ["predict", *map(str, args), "--model", "bright"])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and STATE not in p.parts)


def write_video(path):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for boxes in (TWO, TWO, TWO[:1]):
        video.write(picture(boxes))
    video.release()
    return path
