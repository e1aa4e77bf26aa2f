import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

from dvis_d2 import add_dvis_config


def make_cfg(res4_dilation, res5_dilation, stem="deeplab"):
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
    backbone = build_backbone(make_cfg(*dilations, stem=stem)).eval()
    assert backbone.output_shape() == {"aspp": ShapeSpec(channels=12, stride=stride)}
    assert backbone.size_divisibility == stride
    out = backbone(torch.randn(1, 3, 5 * stride, 3 * stride))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"aspp": (1, 12, 5, 3)}


def test_every_parameter_learns_in_a_batch():
    """Also that the synchronized norm works in one process on the CPU."""
    backbone = build_backbone(make_cfg(2, 4)).train()
    backbone(torch.randn(2, 3, 64, 64))["aspp"].square().sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


def test_dilations_of_the_multi_grid_and_of_the_pooling():
    cfg = make_cfg(2, 4)
    cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS = [12, 24, 36]
    backbone = build_backbone(cfg)
    assert [block.conv2.dilation[0] for block in backbone.bottom_up.res5] == [4, 8, 16]
    assert {block.conv2.dilation[0] for block in backbone.bottom_up.res4} == {2}
    assert [conv.dilation[0] for conv in list(backbone.aspp.convs)[1:4]] == [12, 24, 36]


def test_weights_of_detectron2s_deeplab_resnet_reach_the_backbone(tmp_path):
    """A checkpoint that names its parameters as R-103.pkl does."""
    cfg = make_cfg(2, 4)
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
    cfg = make_cfg(2, 4)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ValueError, match=r"OUT_FEATURES is \['res4', 'res5'\]"):
        build_backbone(cfg)
