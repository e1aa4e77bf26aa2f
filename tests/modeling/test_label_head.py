import pytest
import torch
from detectron2.layers import ShapeSpec

from dvis_d2.modeling import LabelMapHead

SHAPES = {"p3": ShapeSpec(channels=6, stride=8)}


def build(**kwargs):
    args = dict(in_feature="p3", common_stride=4, conv_dim=8, num_convs=2, norm="", coordinates=False)
    return LabelMapHead(SHAPES, **(args | kwargs))


@pytest.mark.parametrize("stride, size", [(8, (5, 7)), (4, (10, 14)), (2, (20, 28))])
def test_map_has_the_common_stride(stride, size):
    label_map = build(common_stride=stride)({"p3": torch.randn(2, 6, 5, 7)})
    assert label_map.shape == (2, *size)
    assert label_map.dtype == torch.float32


def test_map_is_taken_before_the_relu():
    head = build()
    torch.nn.init.constant_(head.predictor.bias, -1.0)
    assert head({"p3": torch.randn(2, 6, 5, 7)}).max() < 0


def test_coordinates_tell_identical_places_apart():
    features = {"p3": torch.ones(1, 6, 16, 16)}
    inner = (slice(None), slice(12, -12), slice(12, -12))  # out of reach of the zero padding
    assert build()(features)[inner].std() < 1e-6
    assert build(coordinates=True)(features)[inner].std() > 1e-4


@pytest.mark.parametrize("option, value", [("in_feature", "p9"), ("common_stride", 3)])
def test_impossible_options_are_named(option, value):
    with pytest.raises(ValueError, match=option.upper()):
        build(**{option: value})


def test_bf16_autocast_gives_a_float32_map():
    with torch.autocast("cpu", torch.bfloat16):
        assert build()({"p3": torch.randn(1, 6, 4, 4)}).dtype == torch.float32
