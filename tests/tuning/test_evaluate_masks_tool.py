"""tools/evaluate_masks.py in this process, on an untrained model."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from pycocotools import mask as coco_mask

from dvis_d2.engine import Trainer
from dvis_d2.tuning import StoredPredictions
from dvis_d2.tuning.predictions import MASK_SOURCE

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_masks.py"
FIGURES = ["AP", "AP50", "AP75", "AP90", "F1@1", "F1@5"]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("evaluate_masks", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, tiny_cfg, tmp_path, monkeypatch, capsys):
    """Runs the program; its JSON's rows by source."""
    weights, config = tmp_path / "model.pth", tmp_path / "config.yaml"
    torch.save({"model": Trainer.build_model(tiny_cfg).state_dict()}, weights)
    config.write_text(tiny_cfg.dump())

    def run(*args, opts=(), weights=weights):
        argv = ["evaluate_masks.py", *args, "--config-file", str(config), "MODEL.WEIGHTS", str(weights), *opts]
        monkeypatch.setattr(sys, "argv", argv)
        tool.main()
        out = capsys.readouterr().out.strip().splitlines()
        assert len([line for line in out if line.startswith("| ")]) == 4
        return {row.pop("source"): row for row in json.loads(out[-1])["masks"]}

    return run


@pytest.fixture
def stand_in(perfect, monkeypatch):
    """Masks from the label map are perfect, the head's are a column narrower, "fused" has none."""

    def detections(self, thresholds):
        source = thresholds[MASK_SOURCE]
        (image,) = self.images
        found = [dict(d) for d in perfect[image.image_id]] if source != "fused" else []
        if source == "head":
            for d in found:
                mask = coco_mask.decode(d["segmentation"])
                mask[:, mask.any(axis=0).argmax()] = 0
                d["segmentation"] = coco_mask.encode(mask)
        return [found]

    monkeypatch.setattr(StoredPredictions, "detections", detections)


def test_each_source_is_scored_by_its_masks(run, stand_in):
    rows = run()
    assert list(rows) == ["label_map", "head", "fused"]
    assert [round(rows["label_map"][key]) for key in FIGURES] == [100] * 6
    assert [round(rows["fused"][key]) for key in FIGURES] == [0] * 6
    # sides of 14 to 23 pixels, one column missing: IoU 13/14 to 22/23
    assert [round(rows["head"][key]) for key in ("AP50", "AP75", "AP90", "F1@5")] == [100] * 4
    # of four sides one is off by a pixel, which is not less than 1
    assert 50 < rows["head"]["F1@1"] < 90 and rows["head"]["AP"] < 100


def test_contours_are_of_detections_above_the_score_and_ap_of_all(run, stand_in):
    rows = run("--score", "0.6")  # the detections have 0.5
    assert rows["label_map"]["F1@5"] == 0 and round(rows["label_map"]["AP"]) == 100


def test_class_agnostic_heads_are_scored_without_classes_and_contours(run, stand_in, perfect):
    for image in perfect.values():
        for detection in image:
            detection["category_id"] = 0
    rows = run(opts=("MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC", "True"))
    assert list(rows["label_map"]) == FIGURES[:4] and round(rows["label_map"]["AP"]) == 100


def test_the_network_runs_once_an_image_and_detections_differ_in_their_masks_alone(tool, tiny_cfg, monkeypatch):
    tiny_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD, tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.9, 0.0
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg).eval()
    model.proposal_generator.label_head.predictor.bias.data += 1.0
    calls, found = [], []
    for module in (model.backbone, model.roi_heads.iou_pred):
        module.register_forward_hook(lambda module, *args: calls.append(module))
    original = StoredPredictions.detections

    def noted(self, thresholds):
        found.append(original(self, thresholds)[0])
        return [found[-1]]

    monkeypatch.setattr(StoredPredictions, "detections", noted)
    tool.evaluate_masks(tiny_cfg, model, score=0.5)
    assert len(calls) == 2 * 6 and len(found) == 3 * 6
    first, second, third = found[:3]
    assert len(first) > 0

    def without_mask(detections):
        return [{key: d[key] for key in ("image_id", "category_id", "score")} for d in detections]

    assert without_mask(first) == without_mask(third)
    assert [d["segmentation"] for d in first] != [d["segmentation"] for d in second]


def test_weights_that_are_not_there_are_named(run, tmp_path):
    with pytest.raises(SystemExit, match="nowhere.pth"):
        run(weights=tmp_path / "nowhere.pth")
