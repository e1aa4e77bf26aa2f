"""The package from Python: `dvis_d2.load`, :meth:`Model.predict`, `dvis_d2.train`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model

from . import engine
from .checkpoint import DVISCheckpointer, class_names, load_model
from .inference.image_model import ImageModel
from .inference.seams import Found
from .inference.tiled_network import TiledInference
from .inference.visualization import draw_panel


class Model(ImageModel):
    """A trained network: ``cfg`` its config, ``network`` the module, ``class_names``; ``results`` the metrics by task,
    if :func:`train` made it."""

    def __init__(
        self, cfg: CfgNode, network: Any, class_names: Sequence[str], statistics: Mapping[str, Any] | None = None
    ):
        names = list(class_names) or [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
        super().__init__(cfg, names, TiledInference(cfg, network, dict(statistics or {}) or None))
        self.network, self.results = network, dict[str, Any]()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Model":
        """That of ``MODEL.WEIGHTS``; `cfg` as of :func:`engine.setup_cfg`."""
        network = build_model(cfg).eval()
        info = DVISCheckpointer(network).load(cfg.MODEL.WEIGHTS).get("dvis") or {}
        return cls(cfg, network, info.get("class_names") or class_names(cfg, cfg.DATASETS.TEST), info.get("statistics"))

    def draw_panel(self, image: np.ndarray, *, confidence_threshold: float = 0.5, **options: Any) -> np.ndarray:
        """An image beside its label map, levels, proposals and result; all uint8 (H, W, 3) in RGB. `options` as of
        :func:`.visualization.draw_panel`."""
        whole = TiledInference(self.cfg, self.network, self._inference.statistics, tile=0)
        self._set_threshold(confidence_threshold)
        found = whole.predict(self._in_order(image), label_map=True)
        found["instances"].pred_masks = torch.from_numpy(found["instances"].pred_masks.numpy())
        return draw_panel(image, found, Metadata(thing_classes=self.class_names), **options)

    def _set_threshold(self, threshold: float) -> None:
        heads: Any = self.network.roi_heads
        heads.score_threshold = threshold

    def _find(self, image: Any, threshold: float, scale: float | None, extras: bool) -> tuple[Found, dict]:
        found, more = super()._find(image, threshold, scale, extras)
        return found, {"label_map": more["label_map"].float().cpu().numpy()} if more else more


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
