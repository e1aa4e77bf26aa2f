import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ..checkpoint import DVISCheckpointer, class_names


class DVISPredictor(DefaultPredictor):
    """Detectron2's predictor for one image, which also returns the label map and the proposals. Its ``metadata`` names
    the classes of the detections."""

    def __init__(self, cfg: CfgNode):
        self.cfg, self.input_format = cfg.clone(), cfg.INPUT.FORMAT
        self.model = build_model(cfg).eval()
        DVISCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self.metadata = detection_metadata(cfg)

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict:
        """What :meth:`DVIS.inference` with ``intermediate=True`` finds in an image, uint8 (H, W, 3) in BGR as OpenCV's;
        instances at its size."""
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
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
