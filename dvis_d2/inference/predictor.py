from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ..checkpoint import DVISCheckpointer, class_names
from ..data.image_io import to_image
from ..data.scaling import resize_for_test


class DVISPredictor(DefaultPredictor):
    """Detectron2's predictor for one image, which also returns the label map and the proposals. Its ``metadata`` names
    the classes of the detections."""

    def __init__(self, cfg: CfgNode):
        self.cfg, self.input_format = cfg.clone(), cfg.INPUT.FORMAT
        self.model = build_model(cfg).eval()
        DVISCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = resize_for_test(cfg)
        self.metadata = detection_metadata(cfg)

    @torch.no_grad()
    def __call__(self, original_image: Any) -> dict:
        """What :meth:`DVIS.inference` with ``intermediate=True`` finds in an image, by a path or as
        :func:`..data.image_io.to_image` takes it, arrays in BGR as OpenCV's; instances at its size."""
        image = to_image(original_image, "BGR", normalize=self.cfg.INPUT.NORMALIZE)
        image = image[:, :, ::-1] if self.input_format == "RGB" else image
        height, width = image.shape[:2]
        image = self.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs = {"image": tensor.to(self.cfg.MODEL.DEVICE), "height": height, "width": width}
        return self.model.inference([inputs], intermediate=True)[0]


def detection_metadata(cfg: CfgNode) -> Metadata:
    """With the class names of ``DATASETS.TEST[0]``, if it is given; class-agnostic heads detect an "object"."""
    if cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC:
        return Metadata(thing_classes=["object"])
    if cfg.DATASETS.TEST:
        return MetadataCatalog.get(cfg.DATASETS.TEST[0])
    names = class_names(cfg)
    return Metadata(thing_classes=names) if names else Metadata()
