"""The package from Python: `dvis_d2.load`, :meth:`Model.predict`, `dvis_d2.train`."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model
from detectron2.utils.logger import log_first_n
from PIL import Image
from torch import Tensor

from . import engine
from .checkpoint import DVISCheckpointer, class_names, load_model
from .data.image_io import ImageWindows, to_image
from .data.statistics import other_pixels
from .inference.result import Result
from .inference.sources import read_held
from .inference.tiling import TiledInference
from .inference.visualization import draw_panel

Input = str | os.PathLike | np.ndarray | Image.Image | Tensor


class Model:
    """A trained network: ``cfg`` its config, ``network`` the module, ``class_names``; ``results`` the metrics by task,
    if :func:`train` made it."""

    def __init__(
        self, cfg: CfgNode, network: Any, class_names: Sequence[str], statistics: Mapping[str, Any] | None = None
    ):
        self.cfg, self.network, self.results = cfg, network, dict[str, Any]()
        self.class_names = list(class_names) or [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
        self._inference = TiledInference(cfg, network, dict(statistics or {}) or None)
        self._whole = TiledInference(cfg, network, self._inference.statistics, tile=0)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Model":
        """That of ``MODEL.WEIGHTS``; `cfg` as of :func:`engine.setup_cfg`."""
        network = build_model(cfg).eval()
        info = DVISCheckpointer(network).load(cfg.MODEL.WEIGHTS).get("dvis") or {}
        return cls(cfg, network, info.get("class_names") or class_names(cfg, cfg.DATASETS.TEST), info.get("statistics"))

    @overload
    def predict(self, images: list, **options: Any) -> list[Result]: ...

    @overload
    def predict(self, images: Input, **options: Any) -> Result: ...

    def predict(self, images, *, confidence_threshold=0.5, scale=None, label_map=False):
        """The objects in an image, or in each of a list.

        Args:
            images: paths; NumPy arrays (H, W), (H, W, 1), (H, W, 3) in RGB or (H, W, 4), uint8, uint16 or float; PIL
                images; tensors like the arrays, or with the channels first.
            confidence_threshold: least score of an object, from 0 to 1.
            scale: network pixels an image pixel; by default that of the training.
            label_map: keep the network's label map, if the image is not read in tiles.

        Raises:
            OSError: a file that cannot be read.
            TypeError, ValueError: no image; or a threshold outside of 0 to 1.
        """
        options = {"confidence_threshold": confidence_threshold, "scale": scale, "label_map": label_map}
        if isinstance(images, list):
            return [self.predict(image, **options) for image in images]
        if isinstance(images, (str, os.PathLike)):
            file = ImageWindows(images, "RGB", normalize=self.cfg.INPUT.NORMALIZE)
            return self.detect(*read_held(file), **options)
        image = to_image(images, "RGB", normalize=self.cfg.INPUT.NORMALIZE)
        return self.detect(image, images if isinstance(images, np.ndarray) else image, **options)

    def detect(self, image, pixels, *, confidence_threshold=0.5, scale=None, label_map=False) -> Result:
        """As :meth:`predict`, in an image that is ready, uint8 (H, W, 3) in RGB or ImageWindows of it; `pixels` are the
        stored ones, for measurements."""
        if warning := other_pixels(self._inference.statistics, str(pixels.dtype), self.cfg.INPUT.NORMALIZE):
            log_first_n(logging.WARNING, warning, name=__name__)
        found = self._detect(self._inference, image, confidence_threshold, scale, label_map)
        objects = found["instances"]
        return Result(
            masks=objects.pred_masks,
            boxes=objects.pred_boxes.tensor.numpy(),
            scores=objects.scores.float().numpy(),
            classes=objects.pred_classes.numpy(),
            class_names=self.class_names,
            image=image,
            pixels=pixels,
            label_map=found["label_map"].float().cpu().numpy() if "label_map" in found else None,
        )

    def draw_panel(self, image: np.ndarray, *, confidence_threshold: float = 0.5) -> np.ndarray:
        """An image beside its label map, levels, proposals and result; all uint8 (H, W, 3) in RGB."""
        found = self._detect(self._whole, image, confidence_threshold, None, True)
        found["instances"].pred_masks = torch.from_numpy(found["instances"].pred_masks.numpy())
        return draw_panel(image, found, Metadata(thing_classes=self.class_names))

    def _detect(self, inference, image, threshold: float, scale: float | None, label_map: bool) -> dict:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the confidence threshold is {threshold}: give a score from 0 to 1")
        heads: Any = self.network.roi_heads
        heads.score_threshold = threshold
        if self.cfg.INPUT.FORMAT != "RGB":
            image = image[:, :, ::-1] if isinstance(image, np.ndarray) else _Reversed(image)
        return inference.predict(image, scale=scale, label_map=label_map)


class _Reversed(NamedTuple):
    """An image read by windows, its colors in the other order."""

    image: ImageWindows

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape

    def read(self, *window: int) -> np.ndarray:
        return self.image.read(*window)[:, :, ::-1]


def load(source: str | os.PathLike, *, device: str | None = None, opts: Sequence[str] = ()) -> Model:
    """The model of a packaged name, a training's folder, a file of weights (.pth, .safetensors), or a URL.

    `device`: "cpu", "cuda", ...; by default CUDA where there is one. `opts`: "KEY", "VALUE", ... for its config.
    FileNotFoundError if there is none; ValueError for weights that do not fit.
    """
    cfg, network, info = load_model(source, device=device, opts=opts)
    return Model(cfg, network, info["class_names"], info.get("statistics"))


def train(
    train: str | os.PathLike,
    val: str | os.PathLike | None = None,
    *,
    output_dir: str | os.PathLike,
    model: str | os.PathLike | None = None,
    config_file: str | os.PathLike = "",
    opts: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Train in this process, as ``dvis train`` does, and load the best of it.

    Args:
        train: a folder of images and masks in any common format, or COCO annotations.
        val: COCO annotations; without them part of a folder is set aside, and of a JSON nothing is evaluated.
        model: what to start from, as for :func:`load`.
        config_file: as ``--config-file``; by default the recipe comes from the data.
        opts: values by config key: ``{"SOLVER.MAX_ITER": 500}``.
        options: `train_images` and `val_images`, folders, by default those of the annotations; ``resume=True``.
    """
    args = engine.argument_parser().parse_args([])
    source = "data" if os.path.isdir(train) else "train_json"
    given = {source: train, "val_json": val, "model": model, "config_file": config_file, "output": output_dir}
    for name, value in (given | options).items():
        setattr(args, name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    args.opts = [str(word) for pair in (opts or {}).items() for word in pair]
    cfg, results = engine.train(args)
    loaded = load(cfg.OUTPUT_DIR)
    loaded.results = results
    return loaded
