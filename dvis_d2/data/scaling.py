"""At which scale an image is read: the resize of the test, and how a test keeps to the training's scale."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from ..log_once import warn_once

# Objects that are a fifth of their image: it is a photograph of them, and of a larger photograph they are a fifth too.
LARGE_OBJECTS = 0.2
MUCH_LARGER = 4  # than the images of the training: a network may not find the objects


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """Of a network's training data. Sizes in pixels as stored; triples of numbers are ascending. Crowds are no
    objects."""

    num_images: int = 0
    num_objects: int = 0
    heights: tuple[float, ...] = (0, 0, 0)  # of the images: least, median, largest
    widths: tuple[float, ...] = (0, 0, 0)
    diameters: tuple[float, ...] = (0, 0, 0)  # 2 sqrt(area / pi) of objects: 5 %, 50 %, 95 %
    relative_diameters: tuple[float, ...] = (0, 0, 0)  # in units of the square root of the image's area: 5, 50, 95 %
    objects_per_image: tuple[float, ...] = (0, 0, 0)  # median, 95 %, largest
    # of a training, network pixels a stored pixel when the images are resized for the test: median; 5 % and 95 %
    scale: float = 0.0
    scale_range: tuple[float, ...] = (0, 0)
    canvas: float = 0.0  # longest side of 95 % of the images then, in network pixels
    dtypes: tuple[str, ...] = ()  # of the stored pixels, "uint8", "uint16", ...
    normalize: str = ""  # INPUT.NORMALIZE

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, as JSON and PyTorch's checkpoints have them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataStatistics":
        """The inverse; unknown names, of another version, are left out."""
        known = {field.name for field in dataclasses.fields(cls)} & values.keys()
        given: dict[str, Any] = {k: tuple(values[k]) if isinstance(values[k], list) else values[k] for k in known}
        return cls(**given)


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """At least one pixel each."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_factor(cfg: Any, size: tuple[int, int]) -> float:
    """What the test resize multiplies an image of `size` (height, width) with: ``INPUT.SCALE``, or what makes its sides
    ``MIN_SIZE_TEST`` and at most ``MAX_SIZE_TEST``."""
    if cfg.INPUT.SCALE or not cfg.INPUT.MIN_SIZE_TEST:
        return float(cfg.INPUT.SCALE or 1)
    return min(cfg.INPUT.MIN_SIZE_TEST / min(size), cfg.INPUT.MAX_SIZE_TEST / max(size))


def size_for_test(cfg: Any, size: tuple[int, int]) -> tuple[int, int]:
    """What a whole image of `size` (height, width) is resized to for the test, by :func:`resize_factor`; sides are
    rounded as Detectron2 does it."""
    factor = resize_factor(cfg, size)
    if cfg.INPUT.SCALE or not cfg.INPUT.MIN_SIZE_TEST:
        return scaled_size(size, factor)
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 1 or 3) at another size, as Detectron2 resizes it: bilinear, and averaged where it gets smaller."""
    if image.shape[:2] == size:
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, image.shape[2])


def inference_scale(cfg: Any, statistics: DataStatistics | None, size: tuple[int, int]) -> float | None:
    """The factor by which an image of `size` (height, width) is enlarged for the network, in tiles where it is large;
    None: it is resized as a whole, to :func:`size_for_test`.

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
        warn_once(f"{found} {advice}")
    return None


def other_pixels(statistics: DataStatistics | None, dtype: str, normalize: str) -> str:
    """What to warn of where pixels of `dtype` become other 8 bits, by INPUT.NORMALIZE, than those of the training."""
    known, plain = set(statistics.dtypes if statistics else ()), {"uint8", "bool"}
    found = f"there are {dtype} pixels, those of the training were {', '.join(sorted(known))}"
    if normalize == "none" and known and known <= plain and dtype not in plain:
        return f"{found}, and nothing stretches them: INPUT.NORMALIZE auto does"
    if normalize == "auto" and known and not known & plain and dtype in plain:
        return f"{found} and stretched: INPUT.NORMALIZE percentile stretches these too"
    return ""
