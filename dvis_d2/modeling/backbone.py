import torch.nn.functional as F
from detectron2.layers import ASPP, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.projects.deeplab import build_resnet_deeplab_backbone
from torch import Tensor, nn

BASIC_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class FinestFPN(FPN):
    """A feature pyramid that computes only its finest level, the one the label map is read from.

    Parameter names are those of Detectron2's :class:`FPN`, so that its checkpoints load; the output convolutions of the
    coarser levels, which nobody would read, do not exist.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, norm: str = ""):
        super().__init__(bottom_up, in_features, out_channels, norm)
        self.finest, *coarser = self.output_shape()
        for name in coarser:
            delattr(self, f"fpn_output{name[1:]}")
        self.output_convs = [getattr(self, f"fpn_output{self.finest[1:]}")]
        self._out_features = [self.finest]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        bottom_up = self.bottom_up(x)
        coarsest, *names = self.in_features[::-1]
        features = self.lateral_convs[0](bottom_up[coarsest])
        for lateral_conv, name in zip(self.lateral_convs[1:], names, strict=True):
            features = lateral_conv(bottom_up[name]) + F.interpolate(features, scale_factor=2.0, mode="nearest")
        return {self.finest: self.output_convs[0](features)}


def build_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet; of depth 18 or 34 it may have any width, where Detectron2 insists on 64 channels in res2."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in BASIC_BLOCKS_PER_STAGE:
        return build_resnet_backbone(cfg, input_shape)
    stem = BasicStem(in_channels=input_shape.channels, out_channels=resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    channels = [resnets.STEM_OUT_CHANNELS] + [resnets.RES2_OUT_CHANNELS * 2**i for i in range(4)]
    stages = []
    for i, num_blocks in enumerate(BASIC_BLOCKS_PER_STAGE[resnets.DEPTH]):
        options = {"in_channels": channels[i], "out_channels": channels[i + 1], "norm": resnets.NORM}
        strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
        stages.append(ResNet.make_stage(BasicBlock, num_blocks, stride_per_block=strides, **options))
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_dvis_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FinestFPN:
    """ResNet (18, 34, 50, 101, 152) and an FPN whose one output is the level of the first of ``MODEL.FPN.IN_FEATURES``:
    ``"p3"`` (stride 8) for res3-res5, as in the authors' code, ``"p2"`` (stride 4) for res2-res5."""
    fpn = cfg.MODEL.FPN
    return FinestFPN(build_resnet(cfg, input_shape), fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM)


class DeepLabBackbone(Backbone):
    """DeepLab-v3, the network of the paper's PASCAL experiments (section 5, Tables 1 and 2): a dilated ResNet and
    atrous spatial pyramid pooling (ASPP) on its last stage.

    Its one feature is ``"aspp"``, with the stride of that stage: 8 where res4 and res5 are dilated, 16 where res5 is.
    """

    def __init__(self, bottom_up: Backbone, aspp: nn.Module, out_channels: int):
        super().__init__()
        self.bottom_up, self.aspp = bottom_up, aspp
        self._out_features = ["aspp"]
        self._out_feature_channels = {"aspp": out_channels}
        self._out_feature_strides = {"aspp": bottom_up.output_shape()["res5"].stride}

    @property
    def size_divisibility(self) -> int:
        """The batch is padded to multiples of the stride, so that the label map's cells tile it."""
        return self._out_feature_strides["aspp"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images float (N, C, H, W), H and W divisible by the stride -> (N, out_channels, H / stride, W / stride)."""
        return {"aspp": self.aspp(self.bottom_up(x)["res5"])}


@BACKBONE_REGISTRY.register()
def build_dvis_deeplab_backbone(cfg, input_shape: ShapeSpec) -> DeepLabBackbone:
    """ResNet (50, 101, 152) of Detectron2's DeepLab project with ASPP on res5, its only output."""
    if cfg.MODEL.RESNETS.OUT_FEATURES != ["res5"]:
        out_features = cfg.MODEL.RESNETS.OUT_FEATURES
        raise ValueError(f"MODEL.RESNETS.OUT_FEATURES is {out_features}; ASPP takes the last stage: give ['res5']")
    bottom_up, head = build_resnet_deeplab_backbone(cfg, input_shape), cfg.MODEL.SEM_SEG_HEAD
    channels, options = bottom_up.output_shape()["res5"].channels, {"norm": head.NORM, "dropout": head.ASPP_DROPOUT}
    aspp = ASPP(channels, head.ASPP_CHANNELS, head.ASPP_DILATIONS, activation=F.relu, **options)
    return DeepLabBackbone(bottom_up, aspp, head.ASPP_CHANNELS)
