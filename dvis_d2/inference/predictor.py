from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ..checkpoint import DVISCheckpointer, class_names
from ..data.dataset_mapper import ResizeForTest
from ..data.image_io import to_image


class DVISPredictor(DefaultPredictor):
    """Detectron2's predictor for one image, which also returns the label map and the proposals. Its ``metadata`` names
    the classes of the detections, those of ``DATASETS.TEST`` if they are given."""

    def __init__(self, cfg: CfgNode):
        self.cfg, self.input_format = cfg.clone(), cfg.INPUT.FORMAT
        self.model = build_model(cfg).eval()
        DVISCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = ResizeForTest(cfg)
        self.metadata = Metadata(thing_classes=class_names(cfg, cfg.DATASETS.TEST))

    @torch.no_grad()
    def __call__(self, original_image: Any) -> dict:
        """What :meth:`DVIS.inference` with ``intermediate=True`` finds in an image, by a path or as
        :func:`..data.image_io.to_image` takes it, arrays in BGR as OpenCV's; instances at its size."""
        image = to_image(original_image, "BGR", normalize=self.cfg.INPUT.NORMALIZE)
        image = image[:, :, ::-1] if self.input_format == "RGB" else image
        pixels = np.ascontiguousarray(self.aug.get_transform(image).apply_image(image).transpose(2, 0, 1))
        inputs = {"image": torch.as_tensor(pixels), "height": image.shape[0], "width": image.shape[1]}
        return self.model.inference([inputs], intermediate=True)[0]
