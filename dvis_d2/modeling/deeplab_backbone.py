"""DeepLab-v3 as a backbone: the network of the paper's PASCAL experiments (section 5, Tables 1 and 2)."""

import torch.nn.functional as F
from detectron2.layers import ASPP, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn


class DeepLabBackbone(Backbone):
    """A dilated ResNet and atrous spatial pyramid pooling (ASPP) on its last stage.

    Its one feature is ``"aspp"``, with the stride of that stage: 8 where res4 and res5 are dilated, 16 where
    res5 is. Parameters of the ResNet are below ``bottom_up``, as in Detectron2's FPN.
    """

    def __init__(self, bottom_up: Backbone, aspp: nn.Module, *, in_feature: str, out_channels: int):
        """
        Args:
            bottom_up: image (N, C, H, W) -> dict with ``in_feature``.
            aspp: (N, C, h, w) -> (N, out_channels, h, w).
            in_feature: the feature of ``bottom_up`` that ``aspp`` takes.
            out_channels: channels of the feature ``"aspp"``.
        """
        super().__init__()
        self.bottom_up = bottom_up
        self.aspp = aspp
        self.in_feature = in_feature
        self._out_features = ["aspp"]
        self._out_feature_channels = {"aspp": out_channels}
        self._out_feature_strides = {"aspp": bottom_up.output_shape()[in_feature].stride}

    @property
    def size_divisibility(self) -> int:
        """The batch is padded to multiples of the stride, so that the label map's cells tile it."""
        return self._out_feature_strides["aspp"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: float (N, C, H, W), H and W divisible by :attr:`size_divisibility`.

        Returns:
            ``{"aspp": (N, out_channels, H / stride, W / stride)}``
        """
        return {"aspp": self.aspp(self.bottom_up(x)[self.in_feature])}


@BACKBONE_REGISTRY.register()
def build_dvis_deeplab_backbone(cfg, input_shape: ShapeSpec) -> DeepLabBackbone:
    """ResNet (50, 101, 152) of Detectron2's DeepLab project with ASPP on res5.

    Reads ``MODEL.RESNETS`` (with the project's ``STEM_TYPE``, ``RES4_DILATION``, ``RES5_MULTI_GRID``),
    ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.ASPP``.

    Raises:
        ImportError: this Detectron2 comes without ``detectron2.projects.deeplab``.
        ValueError: ``MODEL.RESNETS.OUT_FEATURES`` is not ``["res5"]``.
    """
    try:
        from detectron2.projects.deeplab import build_resnet_deeplab_backbone
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME is 'build_dvis_deeplab_backbone', which needs detectron2.projects.deeplab, and the "
            "installed Detectron2 comes without it; `make install` and Detectron2's own setup.py install it",
            name="detectron2.projects.deeplab",
        ) from error
    if cfg.MODEL.RESNETS.OUT_FEATURES != ["res5"]:
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {cfg.MODEL.RESNETS.OUT_FEATURES}; for 'build_dvis_deeplab_backbone' it "
            "must be ['res5'], the stage that ASPP takes"
        )
    bottom_up = build_resnet_deeplab_backbone(cfg, input_shape)
    aspp = ASPP(
        bottom_up.output_shape()["res5"].channels,
        cfg.MODEL.ASPP.CHANNELS,
        cfg.MODEL.ASPP.DILATIONS,
        norm=cfg.MODEL.ASPP.NORM,
        activation=F.relu,
        dropout=cfg.MODEL.ASPP.DROPOUT,
    )
    return DeepLabBackbone(bottom_up, aspp, in_feature="res5", out_channels=cfg.MODEL.ASPP.CHANNELS)
