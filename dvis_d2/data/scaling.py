"""At which scale an image is read: the resize of training and test, and how a test keeps to the training's scale."""

import logging
import math

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.utils.logger import log_first_n

from .statistics import DataStatistics, resize_factor

# Objects that are a fifth of their image: it is a photograph of them, and of a larger photograph they are a fifth too.
LARGE_OBJECTS = 0.2
MUCH_LARGER = 4  # than the images of the training: a network may not find the objects


class ScaleBy(T.Augmentation):
    """Resize every image by one factor, at least to one pixel."""

    def __init__(self, factor: float):
        self.factor = factor

    def get_transform(self, image: np.ndarray) -> T.Transform:
        size = image.shape[:2]
        return T.ResizeTransform(*size, *scaled_size(size, self.factor))


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_for_test(cfg: CfgNode) -> T.Augmentation:
    """Of whole images, by ``INPUT.SCALE`` or to ``MIN_SIZE_TEST``."""
    if cfg.INPUT.SCALE:
        return ScaleBy(cfg.INPUT.SCALE)
    return T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)


def inference_scale(cfg: CfgNode, statistics: DataStatistics | None, size: tuple[int, int]) -> float | None:
    """The factor by which an image of `size` (height, width) is enlarged for the network, in tiles where it is large;
    None: it is resized as a whole, as :func:`resize_for_test` does.

    ``INPUT.SCALE`` is the factor of every image. Else, where 95 % of the training's objects are small in their images
    (cells, crowds, aerial pictures), a larger image holds more of them, not larger ones, and the factor stays within
    those of the training's images. Where they are large, as in photographs, or nothing is known of the training, images
    are resized as a whole; a warning says if that reads one far from the training's scale.
    """
    if cfg.INPUT.SCALE:
        return cfg.INPUT.SCALE
    factor = resize_factor(cfg, size)
    low, high = statistics.scale_range if statistics and statistics.scale else (1.0, math.inf)
    if statistics and statistics.scale and statistics.relative_diameters[-1] < LARGE_OBJECTS:
        closest = min(max(factor, low), high)
        return None if math.isclose(closest, factor) else closest
    if factor * MUCH_LARGER < low:
        found = f"An image of {size[1]} x {size[0]} pixels is read {factor:.2g} times its size, those of the training"
        advice = f"{low:.2g} times: small objects are missed. INPUT.SCALE {low:.2g} reads it in tiles"
        log_first_n(logging.WARNING, f"{found} {advice}", key="caller")
    return None
