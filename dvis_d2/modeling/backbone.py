import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

BASIC_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class FinestFPN(FPN):
    """A feature pyramid that computes only its finest level, the one the label map is read from.

    Parameter names are those of Detectron2's :class:`FPN`, so that its checkpoints load; the output
    convolutions of the coarser levels, which nobody would read, do not exist.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, norm: str = ""):
        super().__init__(bottom_up, in_features, out_channels, norm)
        finest = self._out_features[0]
        for name in self._out_features[1:]:
            delattr(self, f"fpn_output{name[1:]}")
        self.output_convs = self.output_convs[-1:]
        self._out_features = [finest]

    def forward(self, x):
        bottom_up = self.bottom_up(x)
        names = self.in_features[::-1]
        features = self.lateral_convs[0](bottom_up[names[0]])
        for lateral_conv, name in zip(self.lateral_convs[1:], names[1:], strict=True):
            lateral = lateral_conv(bottom_up[name])
            features = lateral + F.interpolate(features, scale_factor=2.0, mode="nearest")
        return {self._out_features[0]: self.output_convs[0](features)}


def _build_basic_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    """ResNet-18 or -34 of any width: Detectron2's builder insists on 64 channels in res2."""
    resnets = cfg.MODEL.RESNETS
    stem = BasicStem(in_channels=input_shape.channels, out_channels=resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    stages = []
    in_channels, out_channels = resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    for i, num_blocks in enumerate(BASIC_BLOCKS_PER_STAGE[resnets.DEPTH]):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[1 if i == 0 else 2] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=resnets.NORM,
            )
        )
        in_channels, out_channels = out_channels, out_channels * 2
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _build_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    build = _build_basic_resnet if cfg.MODEL.RESNETS.DEPTH in BASIC_BLOCKS_PER_STAGE else build_resnet_backbone
    return build(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_dvis_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FinestFPN:
    """ResNet (18, 34, 50, 101, 152) with an FPN that computes its finest level only.

    Returns:
        a backbone whose one output is the FPN level of the first of ``MODEL.FPN.IN_FEATURES``: ``"p3"``
        (stride 8) for res3-res5, as in the authors' code, ``"p2"`` (stride 4) for res2-res5.
    """
    return FinestFPN(
        bottom_up=_build_resnet(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
    )


@BACKBONE_REGISTRY.register()
def build_dvis_resnet_whole_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """The same ResNets, depth 18 and 34 at any width included, under Detectron2's own FPN: all levels, and one more
    by pooling, as Mask R-CNN wants them (docs/comparison.md)."""
    return FPN(
        bottom_up=_build_resnet(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )
