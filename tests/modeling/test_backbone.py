import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from dvis_d2 import add_dvis_config


def make_cfg(depth, levels=("res3", "res4", "res5"), width=None):
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_dvis_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = list(levels)
    cfg.MODEL.FPN.IN_FEATURES = list(levels)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    if depth < 50:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width or 64
    return cfg


@pytest.mark.parametrize("depth, width", [(18, None), (18, 16), (34, 16), (50, None)])
def test_one_finest_level(depth, width):
    backbone = build_backbone(make_cfg(depth, width=width))
    out = backbone(torch.randn(1, 3, 64, 96))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"p3": (1, 16, 8, 12)}
    assert backbone.output_shape()["p3"] == ShapeSpec(channels=16, stride=8)
    assert backbone.size_divisibility == 32


def test_p2_from_four_levels():
    backbone = build_backbone(make_cfg(18, ("res2", "res3", "res4", "res5"), width=16))
    assert backbone(torch.randn(1, 3, 64, 64))["p2"].shape == (1, 16, 16, 16)


def test_equals_the_finest_level_of_detectron2s_pyramid_with_its_weights():
    cfg = make_cfg(18, width=64)
    ours = build_backbone(cfg)
    theirs = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))
    missing = ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    assert missing == []
    x = torch.randn(1, 3, 64, 64)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x)["p3"], theirs(x)["p3"])
    assert not any("fpn_output4" in k for k in ours.state_dict())
