"""Numbers out of range are named, in functions and when a model is built."""

import math

import pytest
import torch
from detectron2.modeling import build_model

from dvis_d2.modeling.detections import detect
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.losses import binary_loss, permutation_invariant_loss
from dvis_d2.modeling.masks import mask_nms
from dvis_d2.modeling.options import check_range

NOTHING = torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0), torch.zeros(0, 3)
DETECT = dict(alpha=0.5, score_threshold=0.05, nms_threshold=0.5, max_detections=100)


def test_a_range_has_its_ends_and_neither_nan_nor_infinity():
    for value in (0, 1, 0.5, True):
        check_range(0, 1, x=value)
    check_range(x=1e308)
    for value in (-1e-9, 1.0001, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"x must be a number from 0 to 1, not"):
            check_range(0, 1, x=value)
    with pytest.raises(ValueError, match=r"x must be a number >= 0, not inf"):
        check_range(x=math.inf)


@pytest.mark.parametrize(
    "name, value",
    [
        ("nms_threshold", 1.1),
        ("nms_threshold", math.nan),
        ("min_part_ratio", -0.1),
        ("min_area", -1),
        ("max_proposals", -1),
        ("step_threshold", -0.2),
        ("foreground_threshold", math.nan),
        ("bandwidths", [0.4, 0.0]),
    ],
)
def test_of_the_grouping(name, value):
    with pytest.raises(ValueError, match=name.removesuffix("s")):
        group_label_map(torch.zeros(1, 4, 4), **{name: value})


@pytest.mark.parametrize("name", DETECT)
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_of_the_detections(name, value):
    with pytest.raises(ValueError, match=name):
        detect(*NOTHING, **(DETECT | {name: value}))


def test_of_the_losses_and_the_suppression():
    maps = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    for options in ({"different_weight": math.inf}, {"window": ((0, math.inf),)}):
        with pytest.raises(ValueError, match=r"different_weight|window"):
            permutation_invariant_loss(*maps, **options)
    with pytest.raises(ValueError, match="area_exponent"):
        binary_loss(*maps, area_exponent=math.nan)
    with pytest.raises(ValueError, match="threshold"):
        mask_nms(*NOTHING[:2], threshold=-0.5)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.MEAN_SHIFT.NMS_THRESH", 1.5, "nms_threshold"),
        ("MODEL.MEAN_SHIFT.BANDWIDTHS", [0.9, -0.4], "bandwidth"),
        ("MODEL.DVIS_ROI_HEADS.ALPHA", 2.0, "alpha"),
        ("MODEL.DVIS_ROI_HEADS.START", 1.5, "START"),
        ("MODEL.DVIS_ROI_HEADS.PERTURBED_GT", -1, "num_perturbed"),
        ("MODEL.DVIS_ROI_HEADS.MASK_LOSS_WEIGHT", -1.0, "mask_loss_weight"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", -0.05, "score_threshold"),
        ("MODEL.LABEL_MAP_HEAD.COMMON_STRIDE", 0, "COMMON_STRIDE"),
        ("MODEL.VARIATIONAL_LOSS.PI_WEIGHT", math.inf, "loss_pi"),
    ],
)
def test_a_model_is_not_built_with_them(tiny_cfg, key, value, message):
    tiny_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg)
