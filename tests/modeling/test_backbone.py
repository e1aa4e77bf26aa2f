import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

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


def deeplab_cfg(res4_dilation, res5_dilation, stem="deeplab"):
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_dvis_deeplab_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.STEM_TYPE, resnets.OUT_FEATURES = 50, "BN", stem, ["res5"]
    resnets.WIDTH_PER_GROUP, resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = 4, 8, 16
    resnets.RES4_DILATION, resnets.RES5_DILATION = res4_dilation, res5_dilation
    cfg.MODEL.SEM_SEG_HEAD.ASPP_CHANNELS, cfg.MODEL.SEM_SEG_HEAD.NORM = 12, "SyncBN"
    return cfg


@pytest.mark.parametrize("dilations, stride", [((2, 4), 8), ((1, 2), 16), ((1, 1), 32)])
@pytest.mark.parametrize("stem", ["deeplab", "basic"])
def test_one_feature_at_the_stride_of_the_last_stage(dilations, stride, stem):
    backbone = build_backbone(deeplab_cfg(*dilations, stem=stem)).eval()
    assert backbone.output_shape() == {"aspp": ShapeSpec(channels=12, stride=stride)}
    assert backbone.size_divisibility == stride
    out = backbone(torch.randn(1, 3, 5 * stride, 3 * stride))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"aspp": (1, 12, 5, 3)}


def test_every_parameter_learns_in_a_batch():
    """Also that the synchronized norm works in one process on the CPU."""
    backbone = build_backbone(deeplab_cfg(2, 4)).train()
    backbone(torch.randn(2, 3, 64, 64))["aspp"].square().sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


def test_dilations_of_the_multi_grid_and_of_the_pooling():
    cfg = deeplab_cfg(2, 4)
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [12, 24, 36]
    backbone = build_backbone(cfg)
    assert [block.conv2.dilation[0] for block in backbone.bottom_up.res5] == [4, 8, 16]
    assert {block.conv2.dilation[0] for block in backbone.bottom_up.res4} == {2}
    assert [conv.dilation[0] for conv in list(backbone.aspp.convs)[1:4]] == [12, 24, 36]


def test_weights_of_detectron2s_deeplab_resnet_reach_the_backbone(tmp_path):
    """A checkpoint that names its parameters as R-103.pkl does."""
    cfg = deeplab_cfg(2, 4)
    source = build_resnet_deeplab_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    path = tmp_path / "R-50.pkl"
    arrays = {k: v.numpy() for k, v in source.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test", "matching_heuristics": True}))
    model = torch.nn.ModuleDict({"backbone": build_backbone(cfg)})
    DetectionCheckpointer(model).load(str(path))
    loaded = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.bottom_up.")}
    assert len(loaded) == len(source) > 200
    assert all(torch.equal(v, source[k.removeprefix("backbone.bottom_up.")]) for k, v in loaded.items())


def test_another_stage_is_refused():
    cfg = deeplab_cfg(2, 4)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ValueError, match=r"OUT_FEATURES is \['res4', 'res5'\]"):
        build_backbone(cfg)
