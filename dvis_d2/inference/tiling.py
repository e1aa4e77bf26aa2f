"""The one way from an image of any size to its detections, for evaluation and prediction: at the training's scale, as a
whole or in overlapping tiles."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from ..data.cropped_masks import CroppedMasks
from ..data.scaling import ScaleBy, inference_scale, resize_for_test, scaled_size
from ..data.statistics import DataStatistics, resize_factor
from ..modeling.meta_arch import DVIS
from .seams import merge_tiles, tile_starts

CUT_MARGIN = 2  # network pixels: a mask that ends so near a tile's border is cut by it
MIN_TILE = 256  # network pixels


class TiledInference(nn.Module):
    """A network on images of any size. Memory is that of a tile and of the masks, inside their boxes; time grows with
    the area.

    Called with a batch of a test loader, as Detectron2's evaluation does, it gives what the model gives: of an image
    with "scale" (:class:`..data.DVISDatasetMapper`) by :meth:`predict`, of all others at once by the model.
    """

    def __init__(
        self, cfg: CfgNode, model: DVIS, statistics: DataStatistics | dict | None = None, *, scale=None, tile=None
    ):
        """`statistics`: of the training, from the checkpoint. `scale`: network pixels an image pixel of every image, by
        default that of :func:`..data.scaling.inference_scale`; `tile`: longest side of a tile, in network pixels, 0 =
        none, by default what :meth:`tile_size` says."""
        super().__init__()
        self.cfg, self.model = cfg, model
        self.statistics = DataStatistics.from_dict(statistics) if isinstance(statistics, dict) else statistics
        self.scale, self.tile = scale, tile
        self.training = model.training  # so that a test in training leaves the model as it was

    def scale_of(self, size: tuple[int, int]) -> float | None:
        """Network pixels an image pixel of an image of `size` (height, width); None: it is resized for the test."""
        scale = self.scale or inference_scale(self.cfg, self.statistics, size)
        same = scale and math.isclose(scale, resize_factor(self.cfg, size)) and not self.is_large(size, scale)
        return None if same else scale

    def is_large(self, size: tuple[int, int], scale: float) -> bool:
        """Whether an image of this size is read in tiles."""
        tile, _ = self.tile_size(scale)
        return bool(tile) and max(scaled_size(size, scale)) > tile

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        whole = [x for x in batched_inputs if "scale" not in x]
        with self.caps():
            outputs = iter(self.model(whole) if whole else ())
        return [
            self.predict(x["image"].permute(1, 2, 0).numpy(), scale=x["scale"]) if "scale" in x else next(outputs)
            for x in batched_inputs
        ]

    @torch.no_grad()
    def predict(self, image: Any, *, scale: float | None = None, label_map: bool = False) -> dict[str, Any]:
        """The detections in an image, uint8 (H, W, 3) with channels as ``INPUT.FORMAT``, or :class:`ImageWindows`,
        which has a ``shape`` and is read by ``read(y0, y1, x0, x1)``.

        "instances" have ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_masks``, :class:`CroppedMasks`, best
        first. With `label_map`, if the image is read as a whole, also what :meth:`DVIS.inference` calls intermediate.
        """
        size = int(image.shape[0]), int(image.shape[1])
        scale = scale or self.scale_of(size)
        if scale and self.is_large(size, scale):
            return {"instances": self._tiled(image, size, scale)}
        pixels = _read(image, 0, size[0], 0, size[1])
        resize = ScaleBy(scale) if scale else resize_for_test(self.cfg)
        with self.caps(size if scale else None):
            return self._run(resize.get_transform(pixels).apply_image(pixels), size, intermediate=label_map)

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

    def _tiled(self, image: Any, size: tuple[int, int], scale: float) -> Instances:
        tile, overlap = self.tile_size(scale)
        side = max(1, round(tile / scale))
        shape = height, width = min(side, size[0]), min(side, size[1])
        starts = tile_starts(size[0], side, round(overlap / scale)), tile_starts(size[1], side, round(overlap / scale))
        # whole tiles all have one size for the network, whatever the rounding
        network = [tile if own == side else other for own, other in zip(shape, scaled_size(shape, scale), strict=True)]
        resize, found = T.ResizeTransform(*shape, *network), []
        with self.caps(shape):
            for y, x in itertools.product(*starts):
                pixels = resize.apply_image(_read(image, y, y + height, x, x + width))
                own = self._run(pixels, shape)["instances"]
                masks = CroppedMasks(size, own.pred_masks.boxes + np.array([x, y, x, y]), own.pred_masks.crops)
                found.append(Instances(size, scores=own.scores, pred_classes=own.pred_classes, pred_masks=masks))
        return merge_tiles(starts, shape, found, margin=max(1, round(CUT_MARGIN / scale)))

    def _run(self, pixels: np.ndarray, size: tuple[int, int], intermediate: bool = False) -> dict[str, Any]:
        """What the model finds in its input, at an output size, on the CPU, masks inside their boxes."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        inputs = {"image": tensor, "height": size[0], "width": size[1]}
        output = self.model.inference([inputs], intermediate=intermediate)[0]
        instances = output["instances"].to("cpu")
        if isinstance(instances.pred_masks, torch.Tensor):
            instances.pred_masks = CroppedMasks.from_masks(instances.pred_masks)
        return output | {"instances": instances}

    @contextlib.contextmanager
    def caps(self, size: tuple[int, int] | None = None) -> Iterator[None]:
        """``TEST.DETECTIONS_PER_IMAGE`` and ``MEAN_SHIFT.MAX_PROPOSALS`` not below what the training's images suggest:
        twice the number that 95 % of them stay below, at least the largest, as often as their area is in `size`."""
        heads, grouping = self.model.roi_heads, self.model.proposal_generator.grouping
        before, expected = (heads.max_detections, grouping["max_proposals"]), 0.0
        if known := self.statistics:
            _, most, largest = known.objects_per_image
            typical = known.heights[1] * known.widths[1]
            expected = max(2 * most, largest) * (max(1, size[0] * size[1] / typical) if size and typical else 1)
        heads.max_detections, grouping["max_proposals"] = (max(cap, math.ceil(expected)) for cap in before)
        try:
            yield
        finally:
            heads.max_detections, grouping["max_proposals"] = before


def _read(image: Any, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    return image[y0:y1, x0:x1] if isinstance(image, np.ndarray) else image.read(y0, y1, x0, x1)
