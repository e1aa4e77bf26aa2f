import numpy as np
import torch
from detectron2.engine import DefaultPredictor


class DVISPredictor(DefaultPredictor):
    """Detectron2's predictor for one image, which also returns the label map and the proposals."""

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict:
        """
        Args:
            original_image: uint8 (H, W, 3), BGR, as Detectron2 and OpenCV read it.

        Returns:
            see :meth:`DVIS.inference` with ``intermediate=True``; instances at the image's size.
        """
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        height, width = image.shape[:2]
        image = self.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs = {"image": tensor.to(self.cfg.MODEL.DEVICE), "height": height, "width": width}
        return self.model.inference([inputs], intermediate=True)[0]
