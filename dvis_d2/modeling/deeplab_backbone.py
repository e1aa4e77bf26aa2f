"""DeepLab-v3 as a backbone: the network of the paper's PASCAL experiments (section 5, Tables 1 and 2)."""

import torch.nn.functional as F
from detectron2.layers import ASPP, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.projects.deeplab import build_resnet_deeplab_backbone
from torch import Tensor, nn


class DeepLabBackbone(Backbone):
    """A dilated ResNet, ``bottom_up``, and atrous spatial pyramid pooling (ASPP) on its last stage, ``in_feature``.

    Its one feature is ``"aspp"``, with the stride of that stage: 8 where res4 and res5 are dilated, 16 where res5 is.
    """

    def __init__(self, bottom_up: Backbone, aspp: nn.Module, *, in_feature: str, out_channels: int):
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
        """Images float (N, C, H, W), H and W divisible by the stride -> (N, out_channels, H / stride, W / stride)."""
        return {"aspp": self.aspp(self.bottom_up(x)[self.in_feature])}


@BACKBONE_REGISTRY.register()
def build_dvis_deeplab_backbone(cfg, input_shape: ShapeSpec) -> DeepLabBackbone:
    """ResNet (50, 101, 152) of Detectron2's DeepLab project with ASPP on res5.

    Raises ValueError if ``MODEL.RESNETS.OUT_FEATURES`` is not ``["res5"]``.
    """
    if cfg.MODEL.RESNETS.OUT_FEATURES != ["res5"]:
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {cfg.MODEL.RESNETS.OUT_FEATURES}; for 'build_dvis_deeplab_backbone' it "
            "must be ['res5'], the stage that ASPP takes"
        )
    bottom_up = build_resnet_deeplab_backbone(cfg, input_shape)
    head = cfg.MODEL.SEM_SEG_HEAD
    aspp = ASPP(
        bottom_up.output_shape()["res5"].channels,
        head.ASPP_CHANNELS,
        head.ASPP_DILATIONS,
        norm=head.NORM,
        activation=F.relu,
        dropout=head.ASPP_DROPOUT,
    )
    return DeepLabBackbone(bottom_up, aspp, in_feature="res5", out_channels=head.ASPP_CHANNELS)
