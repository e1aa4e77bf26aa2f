"""benchmark and count_flops on tiny networks."""

import argparse
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import benchmark, count_flops
from experiments.benchmarks import common, inference, loss, mean_shift, train

ROOT = Path(__file__).parents[2]
TINY = """
    MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 8 MODEL.FPN.OUT_CHANNELS 16
    MODEL.LABEL_MAP_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 16
    MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_HEADS.NUM_CLASSES 80 SOLVER.AMP.ENABLED False
""".split()
CONFIG = str(ROOT / "configs/shapes/Base-shapes.yaml")
HERE = ["--config-file", CONFIG, "--device", "cpu", "--repeats", "1"]


@pytest.fixture
def tiny():
    return common.dvis_cfg(CONFIG, TINY, "cpu")


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([], id="float32"),
        pytest.param(["--channels-last", "--amp"], id="amp", marks=pytest.mark.slow),
    ],
)
def test_inference_times_every_part_of_both_models(extra, last_json):
    options = ["--depths", "18", "--sizes", "64", "96", "--batches", "2", *extra]
    benchmark.main(["inference", *HERE, *options, "--", *TINY])
    result = last_json()
    assert [row["size"] for row in result["rows"]] == [64, 96]
    for row in result["rows"]:
        dvis, rival = row["DVIS"], row["Mask R-CNN"]
        assert dvis["detections"] == rival["detections"] == row["proposals"] > 2
        assert row["rpn_proposals"] > row["proposals"]
        for name, model in (("DVIS", dvis), ("Mask R-CNN", rival)):
            assert tuple(model["ms"]) == inference.PARTS[name]
            assert all(value > 0 for value in model["ms"].values())
            assert sum(model["ms"].values()) == pytest.approx(model["total_ms"], abs=0.01)  # one repeat
        assert row["ratio"] == pytest.approx(dvis["total_ms"] / rival["total_ms"], rel=0.01)
        heads = dvis["ms"]["heads"] + dvis["ms"]["masks"]
        assert row["heads_and_masks_share"] == pytest.approx(heads / dvis["total_ms"], rel=0.01)
    assert result["ratio"] == max(row["ratio"] for row in result["rows"])
    assert not result["cpu_time"] and result["opts"] == TINY


def test_train_times_steps_loss_and_loader(last_json):
    options = ["--size", "64", "--batch", "2", "--mask-rcnn-samples", "32", "--cpu-time"]
    benchmark.main(["train", *HERE, *options, "--", *TINY])
    result = last_json()
    assert result["size"] == 64 and result["batch"] == 2 and result["map"] == "2x32x32" and not result["amp"]
    assert 0 < result["pairwise_ms"] < result["dvis_ms"] and 0 < result["loss_share"] < 1
    assert result["ratio"] == pytest.approx(result["dvis_ms"] / result["mask_rcnn_ms"], rel=0.01)
    assert result["loader_ms"] > 0 and result["loader_is_bottleneck"] == (result["loader_ms"] > result["dvis_ms"])
    assert result["dvis_samples"]["fg"] > 0
    assert result["mask_rcnn_samples"]["fg"] == 8  # a quarter of 32
    assert train.DATASET not in train.DatasetCatalog.list()


def test_loss_is_measured_by_every_method(last_json, monkeypatch):
    monkeypatch.setattr(loss, "CONVOLUTION_MAPS", ((16, 16, 2),))
    benchmark.main(["loss", "--quick", "--repeats", "1", "--device", "cpu"])
    (row,) = last_json()["maps"]
    assert set(row["ms"]) == {"exact", *loss.METHODS} == set(row["bytes_per_foreground_pixel"])
    assert row["map"] == "16x16x2" and min(row["ms"].values()) > 0


def test_losses_of_the_benchmark_agree_on_all_pairs():
    label_map, ids = loss.make_map((12, 12, 2), 3, torch.device("cpu"))
    ours = loss.permutation_invariant_loss(label_map, ids, reduction="pairs")
    assert ours.item() == pytest.approx(loss.brute_force_loss(label_map, ids).item(), rel=1e-5)


def test_mean_shift_is_measured_beside_scikit_learn(last_json, monkeypatch):
    monkeypatch.setattr(mean_shift, "MAPS", ((24, 24, 1),))
    monkeypatch.setattr(mean_shift, "GROWTH_MAP", (24, 24, 1))
    benchmark.main(["mean-shift", "--quick", "--repeats", "1", "--part", "50", "--device", "cpu"])
    result = last_json()
    assert [row["instances"] for row in result["maps"]] == [8, 100]
    assert all(value > 0 for row in result["maps"] for value in row["ms"].values())
    assert set(result["growth"]) == {"ms_5_instances", "ms_100_instances", "ratio"}


def test_injected_label_map_replaces_values_and_keeps_the_gradient(tiny):
    model = common.build(tiny)
    features = {"p2": torch.randn(1, 16, 8, 8)}
    torch.manual_seed(0)
    head = model.proposal_generator.label_head
    head(features).square().sum().backward()
    own = head(features).detach()
    model.zero_grad()
    label_map = torch.rand_like(own)
    common.inject_label_map(model, label_map)
    out = head(features)
    assert torch.equal(out, label_map)
    out.sum().backward()
    assert head.fine_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_heads_are_made_sure_of_every_proposal(tiny, class_agnostic):
    tiny.defrost()
    tiny.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = class_agnostic
    tiny.MODEL.ROI_HEADS.NUM_CLASSES = 1 if class_agnostic else 5
    heads = common.build(tiny).roi_heads
    common.inject_verification(argparse.Namespace(roi_heads=heads))
    x = torch.randn(3, heads.iou_pred.in_features)
    assert (heads.iou_pred(x) == common.CERTAIN).all()
    assert class_agnostic or heads.cls_score(x).argmax(1).tolist() == [0, 1, 2]


def test_good_label_map_tells_objects_apart():
    ids = torch.zeros(1, 8, 8, dtype=torch.int64)
    ids[0, :3], ids[0, 5:], ids[0, 4] = 1, 2, -1
    values = common.good_label_map(ids)[0]
    assert (values[3] == 0).all() and (values[4] == 0).all()
    assert ((values[:3] - 2).abs() < 0.5).all() and ((values[5:] - 3).abs() < 0.5).all()
    assert values[:3].std() > 0


def test_mask_rcnn_has_the_resnet_of_dvis_and_heads_as_wide_as_its_fpn(tiny):
    rival_cfg = common.mask_rcnn_cfg(tiny)
    assert rival_cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads" and rival_cfg.MODEL.MASK_ON
    dvis, rival = common.build(tiny), common.build(rival_cfg)
    shapes = [{k: v.shape for k, v in m.backbone.bottom_up.state_dict().items()} for m in (dvis, rival)]
    assert shapes[0] == shapes[1]
    assert list(rival.backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert rival.roi_heads.box_head.fc1.out_features == 1024 * 16 // 256
    standard = common.mask_rcnn_cfg(common.dvis_cfg(ROOT / "configs/dvis_R50.yaml", [], "cpu")).MODEL
    assert standard.ROI_BOX_HEAD.FC_DIM == 1024 and standard.ROI_MASK_HEAD.CONV_DIM == 256
    assert standard.RESNETS.DEPTH == 50 and standard.ROI_HEADS.NUM_CLASSES == 80


def test_boxes_near_objects_overlap_them():
    boxes = torch.tensor([[10.0, 20.0, 50.0, 80.0], [0.0, 0.0, 12.0, 12.0]])
    near = train._boxes_near(boxes)
    iou = train_iou(near, boxes.repeat(train.BOXES_AN_OBJECT, 1))
    assert len(near) == 16 and iou.min() >= 0.5 and len(near.unique(dim=0)) == 16


def train_iou(a, b):
    top_left, bottom_right = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inside = (bottom_right - top_left).clamp(min=0).prod(1)
    return inside / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inside)


def test_cpu_time_of_a_gpu_is_refused():
    args = argparse.Namespace(threads=None, device="cuda", cpu_time=True)
    with pytest.raises(ValueError, match="--cpu-time"):
        common.make_clock(args)


def test_flops_of_plain_convolutions_are_those_counted_by_hand(last_json):
    """Without norms and upsampling, a head on a 16 x 16 map of 16 channels: three 3x3 convolutions and a 1x1."""
    plain = ["MODEL.LABEL_MAP_HEAD.NORM", "", "MODEL.LABEL_MAP_HEAD.COMMON_STRIDE", "4"]
    count_flops.main(["--config-file", CONFIG, "--size", "64", "--mask-rcnn", *TINY, *plain])
    result = last_json()["sizes"][0]
    head = 16 * 16 * (3 * 9 * 16 * 16 + 16)
    assert result["dvis"]["label_head"] * 1e9 == head
    assert result["proposals"] == 15 and result["paper"] is None
    # 15 proposals of 17 x 14 x 14 inputs: two 3x3 convolutions, a 2x2 deconvolution with stride 2, a 1x1 convolution
    mask_head = 15 * 14 * 14 * (9 * 17 * 16 + 9 * 16 * 16 + 4 * 16 * 16 + 4 * 16)
    assert result["dvis"]["mask_head"] * 1e9 == mask_head
    for name in ("dvis", "mask_rcnn"):
        parts = result[name]
        assert sum(v for k, v in parts.items() if k != "total") == pytest.approx(parts["total"])


@pytest.mark.slow
def test_flops_of_the_paper_s_network_agree_with_torch_s_counter():
    cfg = common.dvis_cfg(ROOT / "configs/dvis_R50.yaml", [], "cpu")
    result = count_flops.count_config(cfg, 550, mask_rcnn=False)
    parts = result["dvis"]
    assert result["proposals"] == 15 and result["paper"] == 38.49
    assert parts["other"] == pytest.approx(0, abs=1e-6) and min(parts.values()) >= 0
    assert parts["total"] == pytest.approx(sum(parts[name] for name in count_flops.DVIS_PARTS))
    # torch counts what runs, a multiply-add twice; fvcore counts the normalizations too
    model = common.build(cfg)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.backbone(torch.zeros(1, 3, 576, 576))  # 550 padded to a multiple of 32
    assert parts["backbone"] + parts["fpn"] == pytest.approx(counter.get_total_flops() / 2e9, rel=0.01)
