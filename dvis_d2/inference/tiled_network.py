"""A DVIS on images of any size, by torch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from ..data.cropped_masks import CroppedMasks
from ..data.scaling import DataStatistics
from ..modeling.meta_arch import DVIS
from .seams import Found
from .tiling import Tiling


class TiledInference(Tiling, nn.Module):
    """Called with a batch of a test loader, as Detectron2's evaluation does, it gives what the model gives: of an image
    with "scale" (:class:`..data.DVISDatasetMapper`) by :meth:`predict`, of all others at once by the model."""

    def __init__(
        self, cfg: CfgNode, model: DVIS, statistics: DataStatistics | dict | None = None, *, scale=None, tile=None
    ):
        """See :class:`Tiling`."""
        nn.Module.__init__(self)
        Tiling.__init__(self, cfg, statistics, scale=scale, tile=tile)
        self.model = model
        self.training = model.training  # so that a test in training leaves the model as it was

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        whole = [x for x in batched_inputs if "scale" not in x]
        with self.caps(self.expected_objects()):
            outputs = iter(self.model(whole) if whole else ())
        return [
            self.predict(x["image"].permute(1, 2, 0).numpy(), scale=x["scale"]) if "scale" in x else next(outputs)
            for x in batched_inputs
        ]

    def predict(self, image: Any, *, scale: float | None = None, label_map: bool = False) -> dict[str, Any]:
        """:meth:`find` with "instances" of ``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_masks``,
        :class:`CroppedMasks`; with `label_map`, if the image is read as a whole, also what :meth:`DVIS.inference` calls
        intermediate."""
        found, extras = self.find(image, scale=scale, extras=label_map)
        instances = Instances(
            found.masks.image_size,
            pred_boxes=Boxes(torch.from_numpy(found.masks.boxes)),
            scores=torch.from_numpy(found.scores),
            pred_classes=torch.from_numpy(found.classes),
            pred_masks=found.masks,
        )
        return extras | {"instances": instances}

    @torch.no_grad()
    def run(self, pixels: np.ndarray, size: tuple[int, int], expected: int, extras: bool) -> tuple[Found, dict]:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        inputs = {"image": tensor, "height": size[0], "width": size[1]}
        with self.caps(expected):
            output = self.model.inference([inputs], intermediate=extras, cropped=True)[0]
        instances = output.pop("instances").to("cpu")
        masks = instances.pred_masks
        masks = masks if isinstance(masks, CroppedMasks) else CroppedMasks.from_masks(masks)
        return Found(masks, instances.scores.float().numpy(), instances.pred_classes.numpy()), output

    @contextlib.contextmanager
    def caps(self, expected: int) -> Iterator[None]:
        """``TEST.DETECTIONS_PER_IMAGE`` and ``MEAN_SHIFT.MAX_PROPOSALS`` not below the objects that are expected."""
        heads, grouping = self.model.roi_heads, self.model.proposal_generator.grouping
        before = heads.max_detections, grouping["max_proposals"]
        heads.max_detections, grouping["max_proposals"] = (max(cap, expected) for cap in before)
        try:
            yield
        finally:
            heads.max_detections, grouping["max_proposals"] = before
