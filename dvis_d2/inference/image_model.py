"""What predicts in images of every kind, whatever runs the network."""

import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image

from ..data.image_io import ImageWindows, to_image
from ..data.scaling import other_pixels
from ..log_once import warn_once
from .result import Result
from .seams import Found
from .sources import read_held
from .tiling import Tiling

Input = str | os.PathLike | np.ndarray | Image.Image | Any


class ImageModel:
    """``cfg`` its config, of which INPUT and TEST are read here; ``class_names``."""

    def __init__(self, cfg: Any, class_names: Sequence[str], inference: Tiling):
        self.cfg, self.class_names, self._inference = cfg, list(class_names), inference

    @overload
    def predict(self, images: list, **options: Any) -> list[Result]: ...

    @overload
    def predict(self, images: Input, **options: Any) -> Result: ...

    def predict(self, images, *, confidence_threshold=0.5, scale=None, label_map=False):
        """The objects in an image, or in each of a list.

        Args:
            images: paths; NumPy arrays (H, W), (H, W, 1), (H, W, 3) in RGB or (H, W, 4), uint8, uint16 or float; PIL
                images; tensors like the arrays, or with the channels first.
            confidence_threshold: least score of an object, from 0 to 1.
            scale: network pixels an image pixel; by default that of the training.
            label_map: keep the network's label map, if the image is not read in tiles.

        Raises:
            OSError: a file that cannot be read.
            TypeError, ValueError: no image; or a threshold outside of 0 to 1, a scale outside of 0.01 to 100.
        """
        options = {"confidence_threshold": confidence_threshold, "scale": scale, "label_map": label_map}
        if isinstance(images, list):
            return [self.predict(image, **options) for image in images]
        if isinstance(images, (str, os.PathLike)):
            file = ImageWindows(images, "RGB", normalize=self.cfg.INPUT.NORMALIZE)
            return self.detect(*read_held(file), **options)
        image = to_image(images, "RGB", normalize=self.cfg.INPUT.NORMALIZE)
        return self.detect(image, images if isinstance(images, np.ndarray) else image, **options)

    def detect(self, image, pixels, *, confidence_threshold=0.5, scale=None, label_map=False) -> Result:
        """As :meth:`predict`, in an image that is ready, uint8 (H, W, 3) in RGB or ImageWindows of it; `pixels` are the
        stored ones, for measurements."""
        limits = ("confidence threshold", confidence_threshold, 0, 1), ("scale", scale, 0.01, 100)
        for what, value, low, high in limits:
            if (what, value) != ("scale", None) and not (isinstance(value, Real) and low <= float(value) <= high):
                raise ValueError(f"the {what} is {value!r}: give a number from {low} to {high}")
        if warning := other_pixels(self._inference.statistics, str(pixels.dtype), self.cfg.INPUT.NORMALIZE):
            warn_once(warning)
        found, extras = self._find(image, confidence_threshold, scale, label_map)
        return Result(
            masks=found.masks,
            boxes=found.masks.boxes.astype(np.float32),
            scores=found.scores,
            classes=found.classes,
            class_names=self.class_names,
            image=image,
            pixels=pixels,
            label_map=extras.get("label_map"),
        )

    def _find(self, image: Any, threshold: float, scale: float | None, extras: bool) -> tuple[Found, dict]:
        self._set_threshold(threshold)
        return self._inference.find(self._in_order(image), scale=scale, extras=extras)

    def _set_threshold(self, threshold: float) -> None:
        """Of the scores of detections from now on."""
        raise NotImplementedError

    def _in_order(self, image: Any) -> Any:
        """The colors as the network takes them."""
        if self.cfg.INPUT.FORMAT == "RGB":
            return image
        return image[:, :, ::-1] if isinstance(image, np.ndarray) else _Reversed(image)


class _Reversed(NamedTuple):
    """An image read by windows, its colors in the other order."""

    image: ImageWindows

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape

    def read(self, *window: int) -> np.ndarray:
        return self.image.read(*window)[:, :, ::-1]
