"""The one way from an image of any size to its detections, for evaluation and prediction, by torch or by an exported
network: at the training's scale, as a whole or in overlapping tiles."""

import itertools
import math
from typing import Any

import numpy as np

from ..data.cropped_masks import CroppedMasks
from ..data.scaling import DataStatistics, inference_scale, resize_factor, resized, scaled_size, size_for_test
from .seams import Found, merge_tiles, tile_starts

CUT_MARGIN = 2  # network pixels: a mask that ends so near a tile's border is cut by it
MIN_TILE = 256  # network pixels


class Tiling:
    """A network on images of any size. Memory is that of a tile and of the masks, inside their boxes; time grows with
    the area. Who inherits it runs the network: :meth:`run`."""

    def __init__(self, cfg: Any, statistics: DataStatistics | dict | None = None, *, scale=None, tile=None):
        """`cfg`: its INPUT and TEST. `statistics`: of the training, from the checkpoint. `scale`: network pixels an
        image pixel of every image, by default that of :func:`..data.scaling.inference_scale`; `tile`: longest side of a
        tile, in network pixels, 0 = none, by default what :meth:`tile_size` says."""
        self.cfg = cfg
        self.statistics = DataStatistics.from_dict(statistics) if isinstance(statistics, dict) else statistics
        self.scale, self.tile = scale, tile

    def run(self, pixels: np.ndarray, size: tuple[int, int], expected: int, extras: bool) -> tuple[Found, dict]:
        """What the network finds in its input, uint8 (h, w, C), at the output's `size` (height, width), where at least
        `expected` objects should not meet a limit; with `extras` also its "label_map", float32 (h', w'), and whatever
        else it knows."""
        raise NotImplementedError

    def scale_of(self, size: tuple[int, int]) -> float | None:
        """Network pixels an image pixel of an image of `size` (height, width); None: it is resized for the test."""
        scale = self.scale or inference_scale(self.cfg, self.statistics, size)
        same = scale and math.isclose(scale, resize_factor(self.cfg, size)) and not self.is_large(size, scale)
        return None if same else scale

    def is_large(self, size: tuple[int, int], scale: float) -> bool:
        """Whether an image of this size is read in tiles."""
        tile, _ = self.tile_size(scale)
        return bool(tile) and max(scaled_size(size, scale)) > tile

    def find(self, image: Any, *, scale: float | None = None, extras: bool = False) -> tuple[Found, dict]:
        """The detections in an image, uint8 (H, W, 3) with channels as ``INPUT.FORMAT``, or :class:`ImageWindows`,
        which has a ``shape`` and is read by ``read(y0, y1, x0, x1)``; and the extras of :meth:`run`, if the image is
        read as a whole."""
        size = int(image.shape[0]), int(image.shape[1])
        scale = scale or self.scale_of(size)
        if scale and self.is_large(size, scale):
            return self._tiled(image, size, scale), {}
        pixels = _read(image, 0, size[0], 0, size[1])
        wanted = scaled_size(size, scale) if scale else size_for_test(self.cfg, size)
        return self.run(resized(pixels, wanted), size, self.expected_objects(size if scale else None), extras)

    def tile_size(self, scale: float) -> tuple[int, int]:
        """Side and overlap of tiles, in network pixels: the canvas of the training's images, up to
        ``TEST.TILE_SIZE``; twice the diameter of the large objects, which are so whole in one tile or another."""
        largest = self.cfg.TEST.TILE_SIZE if self.tile is None else self.tile
        known = self.statistics
        if not known or not known.scale:
            return largest, largest // 4
        overlap = math.ceil(2 * known.diameters[-1] * scale)
        side = largest if self.tile else min(largest, max(round(known.canvas), 2 * overlap, MIN_TILE))
        return side, min(max(overlap, side // 8), side // 2)

    def expected_objects(self, size: tuple[int, int] | None = None) -> int:
        """How many objects the training's images suggest: twice the number that 95 % of them stay below, at least the
        largest, as often as their area is in `size`; 0 where nothing is known."""
        known = self.statistics
        if not known:
            return 0
        _, most, largest = known.objects_per_image
        typical = known.heights[1] * known.widths[1]
        return math.ceil(max(2 * most, largest) * (max(1, size[0] * size[1] / typical) if size and typical else 1))

    def _tiled(self, image: Any, size: tuple[int, int], scale: float) -> Found:
        tile, overlap = self.tile_size(scale)
        side = max(1, round(tile / scale))
        shape = height, width = min(side, size[0]), min(side, size[1])
        starts = tile_starts(size[0], side, round(overlap / scale)), tile_starts(size[1], side, round(overlap / scale))
        # whole tiles all have one size for the network, whatever the rounding
        rows, columns = (
            tile if own == side else other for own, other in zip(shape, scaled_size(shape, scale), strict=True)
        )
        found, expected = [], self.expected_objects(shape)
        for y, x in itertools.product(*starts):
            pixels = resized(_read(image, y, y + height, x, x + width), (rows, columns))
            own, _ = self.run(pixels, shape, expected, False)
            masks = CroppedMasks(size, own.masks.boxes + np.array([x, y, x, y]), own.masks.crops)
            found.append(Found(masks, own.scores, own.classes))
        return merge_tiles(starts, shape, found, margin=max(1, round(CUT_MARGIN / scale)))


def _read(image: Any, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    return image[y0:y1, x0:x1] if isinstance(image, np.ndarray) else image.read(y0, y1, x0, x1)
