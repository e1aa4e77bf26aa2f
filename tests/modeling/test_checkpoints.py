"""Trained weights of earlier versions load: label maps are what they were, objects are found by today's regions, and
not refined."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from dvis_d2.config import add_dvis_config, load_config
from dvis_d2.data import draw_image
from dvis_d2.engine import setup_cfg
from dvis_d2.inference.predictor import DVISPredictor

FOLDER = Path(__file__).parents[1] / "assets" / "checkpoint_0.1.0"
OBJECTS = dict(num_objects=(1, 3), bars=0.0, texture=False, object_size=(18.0, 30.0), min_visible=0.7)


def test_a_checkpoint_of_0_1_0_loads_and_finds_objects_as_before(monkeypatch):
    monkeypatch.setattr("dvis_d2.modeling.detections.FOR_AP", 1)  # covered objects were not left out
    of_masks = "dvis_d2.modeling.roi_heads.weighted_by_masks"  # then, nor did scores know the masks
    monkeypatch.setattr(of_masks, lambda scores, *_: (torch.arange(len(scores)), scores))
    opts = ["MODEL.WEIGHTS", str(FOLDER / "model_final.pth"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3"]
    opts += ["MODEL.DEVICE", "cpu"]
    predictor = DVISPredictor(setup_cfg(Namespace(config_file=str(FOLDER / "config.yaml"), opts=opts), inference=True))
    for seed, expected in enumerate(json.loads((FOLDER / "expected.json").read_text())):
        image = draw_image(np.random.default_rng(seed), height=64, width=64, **OBJECTS)[0]
        output = predictor(image[:, :, ::-1])
        found = output["instances"]
        assert output["label_map"].sum().item() == pytest.approx(expected["label_map_sum"], rel=1e-4)
        assert len(output["proposals"]) == expected["proposals"]
        assert found.pred_classes.tolist() == expected["classes"]
        assert found.scores.tolist() == pytest.approx(expected["scores"], abs=1e-4)
        assert found.pred_boxes.tensor.tolist() == [pytest.approx(box) for box in expected["boxes"]]
        assert found.pred_masks.sum((1, 2)).tolist() == pytest.approx(expected["areas"], abs=2)


def load(tmp_path, text):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    cfg = get_cfg()
    add_dvis_config(cfg)
    load_config(cfg, str(path))
    return cfg


def test_a_config_of_0_1_0_is_read_by_the_new_names(tmp_path):
    mean_shift = "{READINGS: [parts, linked], LINK_THRESHOLDS: [0.1], CRUMB_RATIO: 0.2}"
    cfg = load(tmp_path, f"MODEL: {{MEAN_SHIFT: {mean_shift}, ASPP: {{NORM: GN}}}}\n")
    assert cfg.MODEL.MEAN_SHIFT.CANDIDATES == ["regions"] and cfg.MODEL.MEAN_SHIFT.MIN_PART_RATIO == 0.2
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "GN"


def test_a_removed_key_is_dropped_where_it_had_no_effect_and_refused_where_it_had(tmp_path):
    load(tmp_path, "MODEL: {DVIS_ROI_HEADS: {SCORE_FUSION: sum, CLASS_AGNOSTIC_NMS: false}}\n")
    with pytest.raises(ValueError, match="SCORE_FUSION is 'product'.*\n.*remove the key"):
        load(tmp_path, "MODEL: {DVIS_ROI_HEADS: {SCORE_FUSION: product}}\n")


def test_an_unknown_key_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="MODEL.MEAN_SHIFT.BANDWIDTH"):
        load(tmp_path, "MODEL: {MEAN_SHIFT: {BANDWIDTH: 1.0}}\n")
