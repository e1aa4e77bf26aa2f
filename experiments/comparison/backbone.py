"""Mask R-CNN's backbone; importing this registers it."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from dvis_d2.modeling.backbone import build_resnet


@BACKBONE_REGISTRY.register()
def build_dvis_resnet_whole_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """The ResNets of DVIS, depth 18 and 34 at any width included, under Detectron2's own FPN: all levels, and one more
    by pooling, as Mask R-CNN wants them."""
    return FPN(
        bottom_up=build_resnet(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )
