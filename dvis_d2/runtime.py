"""An exported model without torch and Detectron2, by the packages of requirements-runtime.txt, or by torch alone.

``Runtime("model.onnx").predict(image)`` gives what ``dvis_d2.load("model").predict(image)`` gives: grouping, heads'
scores, masks, tiling and results are the same code. `dvis export` writes the file; docs/guide/deploy.md describes it.
"""

import json
import os
from types import SimpleNamespace
from typing import Any

import numpy as np

from .data.cropped_masks import CroppedMasks
from .exported_file import OnnxFile, TorchScriptFile, incomplete, open_file
from .inference.image_model import ImageModel
from .inference.seams import Found
from .inference.tiling import Tiling
from .modeling.detections import detect, weighted_by_masks
from .modeling.grouping import group_label_map
from .modeling.mask_pasting import final_masks
from .modeling.masks import proposal_boxes


class Runtime(ImageModel):
    """The model of a file: ``predict`` as of :class:`dvis_d2.api.Model`, ``class_names``, ``metadata`` all that the
    file says of it."""

    def __init__(self, path: str | os.PathLike, *, threads: int | None = None, providers: Any = None):
        """`threads`: of onnxruntime, by default one for each core; `providers`: its execution providers, by default
        the CPU. FileNotFoundError without the file; ValueError for one that `dvis export` has not written, or that
        of a later version."""
        file = open_file(os.fspath(path), threads, providers)
        self.metadata = file.metadata
        try:
            cfg = json.loads(json.dumps(self.metadata["config"]), object_hook=lambda node: SimpleNamespace(**node))
            cfg.MODEL = SimpleNamespace(WEIGHTS=os.fspath(path))
            self.network = ExportedNetwork(cfg, file)
            super().__init__(cfg, self.metadata["class_names"], self.network)
        except KeyError as error:
            raise incomplete(os.fspath(path), error) from None

    def _set_threshold(self, threshold: float) -> None:
        self.network.score_threshold = threshold


class ExportedNetwork(Tiling):
    """The file's three graphs, and what stands between and after them."""

    def __init__(self, cfg: Any, file: OnnxFile | TorchScriptFile):
        metadata = file.metadata
        super().__init__(cfg, metadata["statistics"] or None)
        self.call, self.stride = file.run, metadata["map_stride"]
        self.divisor = metadata["size_divisibility"]
        self.grouping = metadata["grouping"]
        self.mask_source, self.detection = metadata["mask_source"], metadata["detection"]
        self.score_threshold: float = self.detection["score_threshold"]

    def padded(self, pixels: np.ndarray) -> np.ndarray:
        """The network's input float32 (1, C, H, W), of uint8 (h, w, C)."""
        added = [(0, -side % self.divisor) for side in pixels.shape[:2]]
        return np.pad(pixels, [*added, (0, 0)], mode="edge").transpose(2, 0, 1)[None].astype(np.float32)

    def run(self, pixels: np.ndarray, size: tuple[int, int], expected: int, extras: bool) -> tuple[Found, dict]:
        height, width = pixels.shape[:2]
        label_map, features = self.call(["label_map", "image_features"], image=self.padded(pixels))
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        limit = max(self.grouping["max_proposals"], expected)
        options = self.grouping | {"max_proposals": limit, "valid": [(rows, columns)]}
        (found,) = group_label_map(label_map, **options)
        _, boxes = proposal_boxes(found.masks, self.stride, (height, width))
        probs, ious = self.call(["class_probs", "ious"], features=features, boxes=_of_first(boxes), soft=found.soft)
        most = max(self.detection["max_detections"], expected)
        options = self.detection | {"max_detections": most, "score_threshold": self.score_threshold}
        chosen, classes, scores = detect(found.masks, ious, probs, **options)
        once, mask_of = np.unique(chosen, return_inverse=True)  # detections of one proposal, by class, share its mask
        soft, boxes = found.soft[once], boxes[once]
        (mask_probs,) = self.call(["mask_probs"], features=features, mask_boxes=_of_first(boxes), mask_soft=soft)
        if self.mask_source == "head":
            order, scores = weighted_by_masks(scores, mask_probs[mask_of], self.score_threshold)
            mask_of, classes = mask_of[order], classes[order]
        sizes = {"image_size": (height, width), "output_size": size}
        drawn_masks = final_masks(soft, mask_probs, boxes, source=self.mask_source, stride=self.stride, **sizes)
        kept = np.flatnonzero(drawn_masks.boxes[mask_of, 2])
        result: CroppedMasks = drawn_masks[mask_of[kept]]
        more_found = {"label_map": label_map[0, :rows, :columns], "proposals": found.masks[:, :rows, :columns]}
        return Found(result, scores[kept].astype(np.float32), classes[kept]), more_found if extras else {}


def _of_first(boxes: np.ndarray) -> np.ndarray:
    """(R, 5): with the number of their image, the first and only one."""
    return np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], axis=1)
