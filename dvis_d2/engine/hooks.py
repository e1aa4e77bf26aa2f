import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase

from ..visualization import draw_panel, metadata_of_detections


class TrainingPicture(HookBase):
    """Every ``period`` steps, a picture of the first training image for TensorBoard: image, ground truth,
    label map, proposals, result."""

    def __init__(self, cfg: CfgNode):
        self.period = cfg.VIS_PERIOD
        self.metadata = metadata_of_detections(cfg, cfg.DATASETS.TRAIN[0])
        self.input_format = cfg.INPUT.FORMAT

    def after_step(self):
        if (self.trainer.iter + 1) % self.period:
            return
        batch = self.trainer.last_batch[0]
        model = self.trainer.model
        model = getattr(model, "module", model)  # inside DistributedDataParallel
        model.eval()
        try:
            # the augmented image is what the picture shows, so the output has its size
            output = model.inference([{"image": batch["image"]}], intermediate=True)[0]
        finally:
            model.train()
        image = convert_image_to_rgb(batch["image"].permute(1, 2, 0), self.input_format)
        panel = draw_panel(image, output, self.metadata, ground_truth=batch["instances"])
        self.trainer.storage.put_image("training example", torch.as_tensor(panel.transpose(2, 0, 1) / 255.0))
